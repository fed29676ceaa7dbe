"""The recognisers of an audit, framed by where its sets have the face; and what the report says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from framed import Dots, Tiny, chip_at, drawn_set
from PIL import Image

from latentprint.data.base import ImageSet
from latentprint.errors import UserError
from latentprint.framer import Framer, in_words
from latentprint.models.framing import Each, Given, OneForAll
from latentprint.models.recognisers import build_recogniser
from latentprint.report.chips import Framed, framing_sheet
from latentprint.report.framing import framing_view

HERE, NEAR, FAR = (0.5, 0.5, 0.6), (0.5, 0.515, 0.6), (0.5, 0.54, 0.6)


def framer(**sets: ImageSet) -> Framer:
    """With landmarks that find drawn faces; names of sets with a dot for an underscore."""
    made = Framer({name.replace("_", "."): each.images for name, each in sets.items()}, None, torch.device("cpu"))
    made.__dict__["landmarks"] = Dots()
    return made


def framed(made: Framer, **framings: str | None) -> dict[str, Tiny]:
    networks = {name: Tiny() for name in framings}
    for name, network in networks.items():
        made.frame(network, f"tiny {name}", framings[name], f"{name}_framing")  # type: ignore[arg-type]
    return networks


def test_by_default_one_framing_for_the_mean_of_all_sets() -> None:
    """However many photos each has; a recogniser's own zoom is about the same centre."""
    made = framer(data_public=drawn_set(HERE, HERE, HERE, HERE), data_private=drawn_set(NEAR))
    network = framed(made, judge=None)["judge"]
    assert isinstance(network.framing, OneForAll) and network.framing.side == 16
    assert not network.framing.training, "answers of networks in training are not kept"
    assert torch.allclose(network.framing.matrix, chip_at(0.5, 0.5075, 0.6 * 1.2), atol=0.01)
    assert made.apart == pytest.approx(0.0075 / 0.6, abs=0.003)
    assert framed(made, other="auto")["other"].framing.matrices(torch.empty(0)).equal(network.framing.matrix[None])


def test_sets_with_faces_in_different_places_are_refused_and_each_frames_them() -> None:
    made = framer(data_public=drawn_set(HERE), data_private=drawn_set(FAR, FAR))
    with pytest.raises(UserError, match=r"^judge_framing: auto frames all sets alike.* 0\.03 of a face crop.* data"
                       r"\.public \(eyes at height 0\.38, 0\.22 apart.* data\.private .*, or set each"):
        framed(made, judge=None)
    network = framed(made, judge="each")["judge"]
    assert isinstance(network.framing, Each) and not made.common.five.isnan().any()
    assert torch.allclose(network.framing.otherwise, chip_at(*HERE[:2], 0.6 * 1.2), atol=0.01), "the first set's"
    assert torch.equal(framed(made, judge="given")["judge"].framing.matrices(torch.empty(0))[0], torch.eye(2, 3))


def test_faces_are_looked_for_once_and_only_where_a_recogniser_needs_them() -> None:
    made = framer(data_public=drawn_set(HERE))
    del made.__dict__["landmarks"]
    assert isinstance(framed(made, judge="given")["judge"].framing, Given)
    made.frame(build_recogniser("iresnet"), "teacher", None, "teacher_framing")
    assert made.seen() == {} and len(made.framed) == 1
    with pytest.raises(UserError, match=r"faces are found by a network that is not here: asset 'landmarks'.*or set "
                       "framing: given"):
        framed(made, judge=None)
    made.__dict__["landmarks"] = Dots()
    framed(made, judge=None, teacher="each")
    assert made.positions is made.positions


def test_a_framing_for_a_network_that_has_none_is_refused() -> None:
    made = framer(data_public=drawn_set(HERE))
    for framing in ("auto", "each"):
        with pytest.raises(UserError, match=rf"^judge_framing: {framing} is for recognisers .*, and judge does not"):
            made.frame(build_recogniser("iresnet"), "judge", framing, "judge_framing")
    made.frame(build_recogniser("iresnet"), "judge", "given", "judge_framing")
    assert made.framed == []


def test_each_is_refused_for_small_images() -> None:
    with pytest.raises(UserError, match="judge_framing: each needs images of at least 32 pixels, and these have 24"):
        framed(framer(data_public=drawn_set(HERE, size=24)), judge="each")


def test_pictures_without_a_face_are_counted_and_said() -> None:
    grey = torch.full((1, 3, 64, 64), 0.5)
    photos = drawn_set(HERE, HERE, HERE)
    made = framer(data_public=photos)
    framed(made, judge="auto")
    seen = made.seen(torch.cat([photos.floats(), grey]))
    assert seen["data.public"].found == 1 and seen["reconstructions"].found == 0.75
    assert made.warnings(seen) == ["framing: no face is found in 1 of 4 reconstructions (25%); they are scored all the "
                                   "same, framed as the mean face"]
    section = made.section(seen)["framing"]
    assert section["recognisers"] == [{"setting": "judge_framing", "name": "tiny judge", "framing": "auto", "zoom": 1.2,
                                       "side": 16}]
    public, drawn = section["sets"]
    assert public["eyes_height"] == pytest.approx(0.5 - 0.199 * 0.6, abs=0.01)
    assert public["eyes_apart"] == pytest.approx(0.3615 * 0.6, abs=0.01)
    assert public["chip_side"] == pytest.approx(0.6, abs=0.01) and drawn["found"] == 0.75
    rows = list(made.rows(seen))
    assert [(row.name, row.ok) for row in rows] == [("judge_framing", True), ("data.public", True),
                                                    ("reconstructions", True), ("warning", None)]
    assert "faces found in 75% of 4; eyes at height 0.38" in rows[2].found
    none = made.seen(grey)
    assert made.section(none)["framing"]["sets"][1] == {"name": "reconstructions", "n": 1, "found": 0.0}


def test_scattered_faces_are_warned_of_where_one_framing_is_for_all() -> None:
    scattered = drawn_set((0.45, 0.5, 0.6), (0.55, 0.5, 0.6))
    made = framer(data_public=scattered)
    framed(made, judge="each")
    assert made.warnings(made.seen()) == []
    framed(made, teacher="auto")
    (warning,) = made.warnings(made.seen())
    assert "faces lie 0.08 in data.public of a face crop from their mean place" in warning and "tiny teacher" in warning
    assert "spread 0.08" in in_words(made.positions["data.public"])


def test_the_sheet_shows_photos_points_and_crops(tmp_path: Path) -> None:
    made = framer(data_public=drawn_set(*(HERE,) * 9), data_private=drawn_set(NEAR, NEAR))
    framed(made, judge="auto", teacher="each")
    made.draw(tmp_path / "framing.png", torch.zeros(4, 3, 64, 64))
    with Image.open(tmp_path / "framing.png") as sheet:
        assert sheet.width > 6 * 144 and sheet.height > 9 * 144, "three sets, each as photos and as two crops"


def test_dots_lie_where_the_points_are_and_lines_around_the_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: dict[str, np.ndarray] = {}
    monkeypatch.setattr("latentprint.report.chips.picture_table", lambda found, path, across: rows.update(found))
    grey = np.full((2, 32, 32, 3), 128, np.uint8)
    points = np.full((2, 5, 2), 0.5, np.float32)
    corners = np.tile(np.array([[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]], np.float32), (2, 1, 1))
    framing_sheet({"some": Framed(grey, points, [True, False], {"judge": grey}, {"judge": corners}),
                   "fewer": Framed(grey[:1], points[:1], [True], {"judge": grey[:1]}, {"judge": corners[:1]})},
                  Path("sheet.png"))
    assert list(rows) == ["some", "judge: some", "fewer", "judge: fewer"]
    face, none = rows["some"]
    green, red = face[72, 72].tolist(), none[72, 72].tolist()
    assert green[1] > green[0] and red[0] > red[1], "no face: red dots"
    assert face[36, 90].tolist() != [128] * 3 and face[60, 90].tolist() == [128] * 3, "the crop's edge, and inside it"
    assert (rows["fewer"][1] == 255).all(), "white where a set has fewer"


def test_the_page_says_how_recognisers_are_framed() -> None:
    section = {"framing": {"recognisers": [{"setting": "judge", "name": "dlib", "framing": "auto"}, {"framing": "odd"}],
                           "sheet": "images/framing.png",
                           "sets": [{"name": "data.public", "n": 200, "found": 0.985, "eyes_height": 0.36},
                                    {"name": "reconstructions", "found": 0.0}, "broken"]}}
    view = framing_view(section, {})
    assert view.lines == ("dlib (judge): one crop for all images, by the mean face of the sets",
                          "a recogniser (unknown setting): odd")
    assert [row.label for row in view.table.rows] == ["data.public", "reconstructions"]
    assert [cell.shown for cell in view.table.rows[0].cells[:4]] == ["200", "98%", "0.36", "–"]
    assert view.file == "images/framing.png" and view.picture is None
    assert not framing_view({}, {}) and not framing_view({"framing": 3}, {})


