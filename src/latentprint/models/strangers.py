"""Who must be a stranger to whom: one check of the people and photos of an audit, the same in every channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from latentprint.data.base import ImageSet
from latentprint.data.overlap import overlaps
from latentprint.data.sources import CustomSource, DataSource, MemorySource, ProceduralSource
from latentprint.errors import UserError
from latentprint.models.assets import find_asset

#: Settings of a source that change how photos are read, not whose they are.
READING = ("size", "min_photos", "max_people", "image")


def check_strangers(sources: Mapping[str, DataSource | None], assets: Iterable[str], folder: Path | None,
                    apart: Iterable[tuple[ImageSet, ImageSet]] = (),
                    held: Iterable[tuple[ImageSet, ImageSet]] = ()) -> list[str]:
    """Warnings about photos that are, or look, the same in two sets; empty when there are none.

    Args:
        sources: by setting, the people under attack and those who calibrate, none of whom a network in use may know.
        assets: names of the trained networks in use; folder: see `find_asset`.
        apart, held: pairs of sets, see `overlaps`.

    Raises:
        UserError: a network in use was trained on people of ``sources``, or sets of ``apart`` share a person or photo.
    """
    for setting, source in sources.items():
        for name in dict.fromkeys(assets) if source is not None else ():
            assert source is not None
            if told := shared(source, find_asset(name, folder)[1].get("config", {})):
                raise UserError(f"{setting}{told} was among the people that the asset {name!r} was trained on; choose "
                                "others")
    return overlaps(apart, held)


def shared(source: DataSource, made: Mapping[str, Any]) -> str:
    """What of a source a network was trained on, after the setting's name in a sentence; empty where nothing is known.

    Args:
        made: the settings of the network's training, as its record keeps them.
    """
    data = made.get("data")
    if isinstance(source, ProceduralSource):
        used = data or made
        first = used.get("first_identity" if data else "first_person", 0)
        trained = range(first, first + (used.get("people", 0) if used.get("kind", "procedural") == "procedural" else 0))
        start, stop = source.first_identity, source.first_identity + source.people
        common = max(start, trained.start)
        return f".first_identity: person {common}" if common < min(stop, trained.stop) else ""
    if isinstance(source, MemorySource | CustomSource):
        return ""
    return f": {source.path}" if data and _whose(source.model_dump(mode="json")) == _whose(data) else ""


def _whose(source: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in source.items() if key not in READING}
    return found | {"path": str(Path(str(found.get("path"))).resolve())}
