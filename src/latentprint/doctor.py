"""What is installed, which devices and assets there are, what is missing and how to get it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from latentprint.findings import Row

DISTRIBUTION = "latentprint"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


#: Networks that an audit of labels or templates builds on.
NEEDED = ("teacher", "judge", "codec", "prior", "attributes")


def examine(assets: Path | None = None) -> list[Row]:
    """Everything, in the order to read it. All is well when no row has ``ok`` False.

    Args:
        assets: a folder of assets to look at beside the packaged ones.
    """
    return [*_python(), *_packages(), *_devices(), *_assets(), *(_folder(assets) if assets else ()), *_own(assets),
            *_published(), *_cache(), *_tools()]


def _python() -> Iterator[Row]:
    ok = sys.version_info >= (3, 11)
    yield Row("python", "python", platform.python_version(), ok, "" if ok else "install Python 3.11 or later")


def _packages() -> Iterator[Row]:
    try:
        yield Row("packages", DISTRIBUTION, metadata.version(DISTRIBUTION))
    except metadata.PackageNotFoundError:
        hint = "make install, or pip install -e . in the checkout"
        yield Row("packages", DISTRIBUTION, "runs from its source; versions not compared", None, hint)
        return
    extras = metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    for requirement in map(Requirement, metadata.requires(DISTRIBUTION) or []):
        extra = next((name for name in extras if _wanted(requirement, name)), "")
        if _wanted(requirement, ""):
            yield package(requirement)
        elif extra:
            yield package(requirement, extra)


def _wanted(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def package(requirement: Requirement, extra: str = "") -> Row:
    """Whether a requirement is met; one of an extra is optional."""
    section = f"optional: {extra}" if extra else "packages"
    wanted = f"{DISTRIBUTION}[{extra}]" if extra else f"{requirement.name}{requirement.specifier}"
    hint = f"pip install '{wanted}'"
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Row(section, requirement.name, "missing", None if extra else False, hint)
    if requirement.specifier.contains(version, prereleases=True):
        return Row(section, requirement.name, version)
    found = f"{version}, tried with {requirement.specifier}"
    return Row(section, requirement.name, found, None if extra else False, hint)


def _devices() -> Iterator[Row]:
    try:
        import torch
    except Exception as error:  # a broken build raises OSError and others besides ImportError
        hint = "pip install torch and torchvision in one command"
        yield Row("devices", "torch", f"cannot be imported: {error}", False, hint)
        return
    capability = torch.backends.cpu.get_cpu_capability()
    fast = torch.ops.mkldnn._is_mkldnn_bf16_supported() if torch.backends.mkldnn.is_available() else False
    yield Row("devices", "cpu", f"{torch.get_num_threads()} threads, {capability}, bf16 {_yes(fast)}")
    if not torch.cuda.is_available():
        yield Row("devices", "cuda", "none", None, "optional: everything also runs on the CPU")
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        bf16 = _yes(torch.cuda.is_bf16_supported())
        yield Row("devices", f"cuda:{index}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, bf16 {bf16}")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _assets() -> Iterator[Row]:
    from latentprint.models.assets import PACKAGED, list_assets
    from latentprint.report.values import flatten

    assets = list_assets()
    if not assets:
        hint = "reinstall the package, or make them: latentprint pretrain --help"
        yield Row("assets", "pretrained networks", f"none in {PACKAGED}", False, hint)
    for asset in assets:
        metrics = ", ".join(f"{key} {value}" for key, value in flatten(asset["metrics"]))
        if asset["ok"]:
            yield Row("assets", asset["name"], f"sha256 {asset['sha256'][:12]}, {metrics}")
        else:
            found, remake = f"{asset['file']} is missing or not the file recorded", asset["command"]
            yield Row("assets", asset["name"], found, False, f"reinstall, or {remake} --set install=true")


def _folder(folder: Path) -> Iterator[Row]:
    from latentprint.models.assets import list_assets

    section = f"assets in {folder}"
    found = {asset["name"]: asset for asset in list_assets(folder)}
    for name in (*NEEDED, *(name for name in found if name not in NEEDED)):
        yield (_asset(section, found[name]) if name in found
               else Row(section, name, "not here: the packaged one is used", None))


def _asset(section: str, asset: Mapping[str, Any]) -> Row:
    if not asset["ok"]:
        return Row(section, asset["name"], f"{asset['file']} is missing or not the file recorded", False,
                   f"make it again: {asset.get('command', 'latentprint convert --help')}")
    source = f", from {asset['source']}" if "source" in asset else ""
    kind = asset.get("architecture", asset["kind"])
    return Row(section, asset["name"], f"{kind}, sha256 {asset['sha256'][:12]} as recorded{source}")


def _own(folder: Path | None) -> Iterator[Row]:
    """The user's folder of assets, and which of the published networks of real faces are nowhere."""
    from latentprint.models.assets import has_asset, list_assets, user_assets
    from latentprint.models.published import PUBLISHED, how_to_get

    own = user_assets()
    section = f"your assets in {own}"
    for asset in () if own is None else list_assets(own):
        yield _asset(section, asset)
    for name in PUBLISHED:
        if not has_asset(name, folder):
            yield Row("real faces", name, "not converted", None, how_to_get(name) or "")


def _published() -> Iterator[Row]:
    from latentprint.plugins.cards import CARDS

    for card in CARDS:
        found = f"{card.files} from {card.publisher} ({card.terms})"
        yield Row("published elsewhere", card.name, found, None, card.command)


def _cache() -> Iterator[Row]:
    try:
        from latentprint.data.cache import default_cache_dir
    except Exception:  # without torch, of which another row tells
        return
    folder = default_cache_dir()
    if folder is None:
        yield Row("cache", "none", "LATENTPRINT_CACHE is empty", None, "photos are prepared and embedded in every run")
        return
    parent = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    photos, answers = _size(folder.glob("*")), _size((folder / "answers").glob("*"))
    found = f"{photos} of prepared photos, {answers} of networks' answers; may be deleted at any time"
    ok = parent.is_dir() and os.access(parent, os.W_OK)
    yield Row("cache", str(folder), found if ok else "cannot be written", True if ok else None,
              "" if ok else "set LATENTPRINT_CACHE to a folder that can be, or photos are embedded in every run")


def _size(files: Iterable[Path]) -> str:
    """Of regular files together, which another process may delete meanwhile."""
    total = 0
    for file in files:
        with suppress(OSError):
            total += file.stat().st_size if file.is_file() else 0
    return f"{total / 2**30:.1f} GiB" if total >= 2**30 else f"{total / 2**20:.0f} MiB"


def _tools() -> Iterator[Row]:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    hint = "" if browser else "apt-get install chromium; only the test of the report page needs it"
    yield Row("tools", "chromium", browser or "missing", True if browser else None, hint)
