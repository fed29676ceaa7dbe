"""The recognisers of an audit, framed by where its photos have the face: one place for photos and reconstructions.

Reconstructions lie where the public photos do that they are drawn on, or that their generator learned from. ``auto``
therefore frames all sets and all reconstructions by one similarity, that of the mean of the sets' positions, and is
refused where a set lies elsewhere: a framing of its own for each set would compare faces that the attack drew in one
place with photos from another. ``each`` needs no common place; a picture without a face is framed as the first set's
mean face, which is where reconstructions are drawn.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from latentprint.data.pixels import as_bytes, as_floats
from latentprint.data.splits import AuditData
from latentprint.data.warp import mapped
from latentprint.errors import UserError
from latentprint.findings import Row
from latentprint.models.assets import load_asset
from latentprint.models.framing import (
    LEAST_SIDE,
    START_ZOOM,
    Each,
    Framing,
    FramingName,
    Given,
    OneForAll,
    Position,
    locate,
    look_at_all,
    mean_position,
    position_of,
)
from latentprint.report import chips

#: How far a set's five points may lie from the mean of all sets, in sides of the chip: two sets may be twice as far
#: from each other. Shifts of 0.03 that differ by picture hardly change what dlib's recogniser says.
MOST_APART = 0.02
#: A spread within a set beyond which one similarity for all of it costs dlib's recogniser dearly. CelebA and LFW,
#: aligned, 0.02 to 0.03; London 0.05; AT&T 0.09, where its true accept rate falls from 98 to 71%.
SCATTERED = 0.04
#: A share of pictures without a face that is worth a warning.
MANY_MISSED = 0.05
#: Pictures of a set on the sheet; the corners of a crop, in its own coordinates.
SHOWN, CORNERS = 6, torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
#: Where a run has that sheet.
SHEET = "images/framing.png"
#: What reconstructions are called beside the settings of the sets.
RECONSTRUCTIONS = "reconstructions"


@runtime_checkable
class Framable(Protocol):
    """A recogniser that says where it expects the face. ``side``: of its input. ``zoom``: see `expected_points`."""

    framing: Framing
    side: int
    zoom: float


class Framed(NamedTuple):
    """A recogniser and how it was framed. ``setting``: where it was named."""

    setting: str
    name: str
    network: Framable

    @property
    def framing(self) -> FramingName:
        return self.network.framing.name


class Framer:
    """Frames recognisers by where an audit's image sets have the face, which is looked for once, when one needs it.

    Args:
        sets: by setting, images ``(N, 3, H, H)`` uint8 of one size; first those among which reconstructions are drawn.
        assets: folder of networks, see `load_asset`; ``landmarks`` is the one that finds faces.
        device: where it looks.
    """

    def __init__(self, sets: Mapping[str, Tensor], assets: Path | None, device: torch.device) -> None:
        self.sets, self.assets, self.device = dict(sets), assets, device
        self._framed: dict[tuple[str, str], Framed] = {}

    @property
    def framed(self) -> list[Framed]:
        """What was framed, in order; of a recogniser that was loaded again, the last."""
        return list(self._framed.values())

    def frame(self, network: nn.Module, name: str, framing: FramingName | None, setting: str) -> None:
        """Frame one recogniser; those that expect no place of the face are left as they are.

        Args:
            name: what it is called. framing: None: ``auto`` where it is needed. setting: begins every message.

        Raises:
            UserError: a framing for a network that has none; faces are not found, or in too different places; pictures
                too small for ``each``.
        """
        if not isinstance(network, Framable):
            if framing in ("auto", "each"):
                raise UserError(f"{setting}: {framing} is for recognisers that say where they expect the face, and "
                                f"{name} does not: leave it out")
            return
        assert isinstance(network, nn.Module)
        network.framing = self._made(network, framing or "auto", setting).to(_device_of(network)).eval()
        self._framed[setting, name] = Framed(setting, name, network)

    def _made(self, network: Framable, framing: FramingName, setting: str) -> Framing:
        match framing:
            case "given":
                return Given(network.side)
            case "each":
                if (size := next(iter(self.sets.values())).shape[-1]) < LEAST_SIDE:
                    raise UserError(f"{setting}: each needs images of at least {LEAST_SIDE} pixels, and these have "
                                    f"{size}: set auto")
                near = next(iter(self.positions.values()))
                return Each(network.side, copy.deepcopy(self.landmarks), near, network.zoom)
        apart = self.apart
        if apart > MOST_APART:
            places = ", ".join(f"{name} ({in_words(each)})" for name, each in self.positions.items())
            raise UserError(f"{setting}: auto frames all sets alike, and their faces lie up to {apart:.2f} of a face "
                            f"crop from their mean place, at most {MOST_APART}: {places}; align all sets alike with "
                            "'latentprint align', or set each")
        return OneForAll(network.side, self.common.matrix(network.zoom))

    @cached_property
    def landmarks(self) -> nn.Module:
        """The network that finds faces.

        Raises:
            UserError: it is not there.
        """
        try:
            return load_asset("landmarks", self.assets).to(self.device)
        except UserError as error:
            raise UserError(f"framing: faces are found by a network that is not here: {error}; or set framing: given, "
                            "where photos are cut as the recogniser expects") from None

    @cached_property
    def positions(self) -> dict[str, Position]:
        """Where each set has its faces, by setting.

        Raises:
            UserError: see `locate`.
        """
        return {name: locate(self.landmarks, images, name) for name, images in self.sets.items()}

    @cached_property
    def common(self) -> Position:
        """The mean of the sets' positions, all sets alike."""
        return mean_position(list(self.positions.values()))

    @property
    def apart(self) -> float:
        """The mean distance of five points that the farthest set has from the mean of all, in sides of the chip."""
        middle = self.common.five
        most = max(float((each.five - middle).norm(dim=1).mean()) for each in self.positions.values())
        return most / self.common.side

    @property
    def looked(self) -> bool:
        """Whether a recogniser needed to know where faces are."""
        return any(each.framing != "given" for each in self.framed)

    def found_in(self, images: Tensor) -> Position:
        """Where pictures ``(N, 3, H, H)``, bytes or in [0, 1], have the face, and which share of all N has one."""
        return position_of(self.landmarks, images, next(iter(self.positions.values())))

    def seen(self, reconstructions: Tensor | None = None) -> dict[str, Position]:
        """The sets' positions, and that of reconstructions; empty where no recogniser needed to know."""
        if not self.looked:
            return {}
        more = {} if reconstructions is None else {RECONSTRUCTIONS: self.found_in(reconstructions)}
        return {**self.positions, **more}

    def reported(self, reconstructions: Tensor, folder: Path | None = None) -> tuple[dict[str, Any], list[str]]:
        """What a report says of framing: what its section in report.json gains, nothing where no recogniser is framed,
        and its warnings.

        Args:
            reconstructions: ``(N, 3, H, H)``, bytes or in [0, 1]. folder: the run's, to write the picture into; None:
                none is written.
        """
        seen = self.seen(reconstructions)
        section = self.section(seen)
        if section and seen:
            section["framing"]["sheet"] = SHEET
            if folder is not None:
                self.draw(folder / SHEET, reconstructions)
        return section, self.warnings(seen)

    @torch.no_grad()
    def draw(self, path: Path, reconstructions: Tensor | None = None) -> None:
        """Write the picture of framing: some photos of each set, and some reconstructions."""
        path.parent.mkdir(parents=True, exist_ok=True)
        shown = {name: _some(images) for name, images in self.sets.items()}
        if reconstructions is not None:
            shown[RECONSTRUCTIONS] = _some(reconstructions)
        chips.framing_sheet({name: self._shown(images) for name, images in shown.items()}, path)

    def _shown(self, images: Tensor) -> chips.Framed:
        near = next(iter(self.positions.values()))
        found = look_at_all(self.landmarks, images, near.matrix(START_ZOOM))
        x = as_floats(images).cpu()
        cut: dict[str, NDArray[np.uint8]] = {}
        corners: dict[str, NDArray[np.float32]] = {}
        for each in self.framed:
            framing = each.network.framing
            label = each.name if each.name not in cut else f"{each.name} ({each.framing})"
            here = x.to(_device_of(each.network))
            cut[label] = as_bytes(framing(here))
            matrix = framing.matrices(here).cpu().expand(len(x), 2, 3)
            corners[label] = mapped(CORNERS.expand(len(x), -1, -1), matrix).numpy()
        return chips.Framed(as_bytes(x), found.five.numpy(), found.seen.tolist(), cut, corners)

    def section(self, seen: Mapping[str, Position]) -> dict[str, Any]:
        """For report.json, from what was `seen`; empty where no recogniser is framed."""
        if not self.framed:
            return {}
        networks = [{"setting": each.setting, "name": each.name, "framing": each.framing, "zoom": each.network.zoom,
                     "side": each.network.side} for each in self.framed]
        return {"framing": {"recognisers": networks, "sets": [
            {"name": name, "n": each.n, "found": each.found, **(place(each) if each.found else {})}
            for name, each in seen.items()]}}

    def facts(self) -> dict[str, list[str]]:
        """For the protocol of a report: audits compare where recognisers are framed alike."""
        lines = [f"{each.name} ({each.setting}): {each.framing}" for each in self.framed]
        return {"framing": lines} if lines else {}

    def warnings(self, seen: Mapping[str, Position]) -> list[str]:
        """What makes framing doubtful, a sentence each."""
        alike = " and ".join(dict.fromkeys(each.name for each in self.framed if each.framing == "auto"))
        wide = [f"{each.spread:.2f} in {name}" for name, each in seen.items()
                if alike and name in self.sets and each.spread > SCATTERED]
        found = [f"framing: faces lie {', '.join(wide)} of a face crop from their mean place, and from {SCATTERED} on "
                 f"one crop for all is too coarse for some recognisers: {alike} may read them badly; align them with "
                 "'latentprint align', or set framing: each"] if wide else []
        return found + [f"framing: no face is found in {missed(name, each)}; they are scored all the same, framed as "
                        "the mean face" for name, each in seen.items() if 1 - each.found > MANY_MISSED]

    def check(self, reconstructions: Tensor | None = None, sheet: Path | None = None) -> list[Row]:
        """For ``--check``; writes the picture to ``sheet`` where a recogniser is framed by faces."""
        seen = self.seen(reconstructions)
        rows = list(self.rows(seen))
        if seen and sheet is not None:
            self.draw(sheet, reconstructions)
            rows.append(Row("framing", "picture", str(sheet)))
        return rows

    def rows(self, seen: Mapping[str, Position]) -> Iterator[Row]:
        """Findings from what was `seen`."""
        for each in self.framed:
            yield Row("framing", each.setting, f"{each.name}, {each.framing}")
        for name, position in seen.items():
            where = f"; {in_words(position)}" if position.found else ""
            yield Row("framing", name, f"faces found in {position.found:.0%} of {position.n}{where}")
        for warning in self.warnings(seen):
            yield Row("framing", "warning", warning, None)


def _some(images: Tensor) -> Tensor:
    """A few of many, evenly spread."""
    return images[torch.linspace(0, len(images) - 1, min(len(images), SHOWN)).long()]


def _device_of(network: object) -> torch.device:
    assert isinstance(network, nn.Module)
    return next(network.parameters(), torch.empty(0)).device


def sets_of(data: AuditData) -> dict[str, Tensor]:
    """The sets of an audit of people, for a `Framer`: photos held out by themselves where they come from elsewhere."""
    parts = {"data.public": data.public, "data.private": data.private_train, "data.evaluation": data.evaluation}
    if data.private_heldout.source != data.private_train.source:
        parts["held-out photos"] = data.private_heldout
    return {name: part.images for name, part in parts.items() if part is not None}


def missed(name: str, position: Position) -> str:
    """How many pictures of a set show no face, in words."""
    what = name if name == RECONSTRUCTIONS else f"photos of {name}"
    return f"{round((1 - position.found) * position.n):,} of {position.n:,} {what} ({1 - position.found:.0%})"


def place(position: Position) -> dict[str, float]:
    """Where eyes and nose are, as shares of the picture, and how well and how alike they were found."""
    eyes = position.five[:2].mean(0), position.five[2:4].mean(0)
    return {"eyes_height": float((eyes[0] + eyes[1])[1] / 2), "eyes_apart": float((eyes[1] - eyes[0]).norm()),
            "nose_height": float(position.five[4, 1]), "chip_side": position.side, "residual": position.residual,
            "spread": position.spread}


def in_words(position: Position) -> str:
    """The same in a few words."""
    found = place(position)
    return (f"eyes at height {found['eyes_height']:.2f}, {found['eyes_apart']:.2f} apart, residual "
            f"{found['residual']:.3f}, spread {found['spread']:.2f}")
