"""Groups of people: from populations, from a table, and through splits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from latentprint.config import load_config
from latentprint.data.base import concatenate
from latentprint.data.groups import read_groups
from latentprint.data.procedural import make_people
from latentprint.data.sources import ProceduralSource, load
from latentprint.data.splits import split_people
from latentprint.errors import UserError
from latentprint.label.audit import audit_data
from latentprint.label.presets import PRESETS, LabelConfig


def test_populations_share_the_people_in_order() -> None:
    data = load(ProceduralSource(people=5, photos=2, first_identity=30, population=["default", "aged"], size=16))
    assert data.groups == ("default",) * 3 + ("aged",) * 2
    assert data.names == tuple(f"person-{i:06d}" for i in range(30, 35))
    young, old = make_people([30, 31, 32], 2, size=16), make_people([33, 34], 2, size=16, population="aged")
    assert torch.equal(data.images, torch.cat([young.images, old.images]))
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert not torch.equal(old.images, make_people([33, 34], 2, size=16).images)


def test_more_populations_than_people_are_refused() -> None:
    with pytest.raises(UserError, match="2 populations cannot share 1 people"):
        load(ProceduralSource(people=1, photos=1, population=["default", "aged"], size=16))
    with pytest.raises(UserError, match="'old' is unknown; expected one of default, palette"):
        load(ProceduralSource(people=2, photos=1, population=["default", "old"], size=16))


def test_groups_stay_with_their_people() -> None:
    data = load(ProceduralSource(people=8, photos=3, population=["default", "posed"], size=16))
    of = dict(zip(data.names, data.groups or (), strict=True))
    split = split_people(data, 4, 1, seed=3)
    for part in (split.private_train, split.private_heldout, split.public):
        assert part.groups == tuple(of[name] for name in part.names)
    named, unnamed = make_people([1], 1, size=16), make_people([2], 1, size=16)
    assert concatenate(named, unnamed).groups == ("default", "default")
    object.__setattr__(unnamed, "groups", None)
    assert concatenate(named, unnamed).groups is None


def test_a_table_of_groups(tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    table.write_text('name,age,group\nZoë,31,"50, or more"\nb,20,under 50\n', encoding="utf-8")
    assert read_groups(table, ["b", "Zoë"]) == ("under 50", "50, or more")
    table.write_text("name,group\nZoe\u0308 , north\n", encoding="utf-8")
    assert read_groups(table, ["Zo\u00eb"]) == ("north",)


@pytest.mark.parametrize(("content", "message"), [
    ("name,age\na,3\n", "no column group; expected name,group"),
    ("", "no column group and no column name"),
    ("name,group\na,x\n", "person 'b' has no group$"),
    ("name,group\n", r"person 'a' has no group \(nor do 1 more people\)"),
    ("name,group\na,x\nb,\n", "person 'b' has no group$"),
    ("name,group\na\nb,x\n", "person 'a' has no group$"),
    ("name,group\na,x\nb,y\na,x\n", "person 'a' is listed twice"),
    (b"name,group\na,\xff\n", "groups cannot be read"),
    (None, "groups cannot be read"),
])  # fmt: skip
def test_bad_tables_are_refused(tmp_path: Path, content: str | bytes | None, message: str) -> None:
    table = tmp_path / "groups.csv"
    if content is not None:
        table.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read_groups(table, ["a", "b"])


def test_only_private_people_need_a_group(tmp_path: Path) -> None:
    """People of the same source who become public need none."""
    sets = ["data.private={kind: procedural, people: 8, photos: 6}", "data.n_private=3", "data.public=[]",
            "data.evaluation=null"]
    names = audit_data(load_config(LabelConfig, "tiny", None, sets, "audit label", PRESETS))[0].private_train.names
    table = tmp_path / "groups.csv"
    table.write_text("name,group\n" + "".join(f"{name},{'ab'[i % 2]}\n" for i, name in enumerate(names)))
    sets.append(f"data.groups={table}")
    data, _ = audit_data(load_config(LabelConfig, "tiny", None, sets, "audit label", PRESETS))
    assert data.private_train.groups == data.private_heldout.groups == ("a", "b", "a")
