"""The run directory: configuration, manifest, metrics, checkpoints, pictures and report of one command."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from latentprint.engine.state import load_state, save_state, write_text
from latentprint.errors import UserError
from latentprint.log import LOG

_PACKAGES = ("latentprint", "torch", "torchvision", "diffusers", "peft", "accelerate", "opacus",
             "pytorch-metric-learning", "numpy", "scipy", "scikit-learn")  # fmt: skip

_call: ContextVar[str | None] = ContextVar("call", default=None)


class RunDir:
    """A folder that a command fills, and from which a killed command goes on.

    Only the main process writes. Steps logged after the last checkpoint of a killed run are cut off on resume, so
    that ``metrics.jsonl`` reads as if nothing had happened.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], writes: bool = True) -> None:
        self.path, self.config, self.writes = path, dict(config), writes
        self.facts: dict[str, Any] = {}
        self._board: Any = None

    @classmethod
    def open(cls, path: Path, config: Mapping[str, Any], resume: bool = False, writes: bool = True) -> RunDir:
        """Create ``path``, or take it up again with ``resume``.

        Raises:
            UserError: not writable, holds a run already (without ``resume``), or was run with another config.
        """
        run = cls(path, config, writes)
        if not writes:
            return run
        check_out(path, resume)
        kept = path / "config.yaml"
        try:
            for name in ("checkpoints", "images", "tensorboard"):
                (path / name).mkdir(parents=True, exist_ok=True)
            if kept.exists():
                _same_config(kept, run.config)
            else:
                write_text(kept, yaml.safe_dump(run.config, sort_keys=False))
        except OSError as error:
            raise UserError(f"--out {path} cannot be written ({error.strerror or error})") from error
        return run

    def log(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """One line of metrics.jsonl, and the same to TensorBoard as ``phase/key``. Non-finite values become null."""
        if not self.writes:
            return
        clean = {key: (float(v) if math.isfinite(v) else None) for key, v in values.items()}
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"phase": phase, "step": step, **clean}) + "\n")
        for key, value in clean.items():
            if value is not None:
                self._tensorboard().add_scalar(f"{phase}/{key}", value, step)

    def cut_log(self, phase: str, step: int) -> None:
        """Forget lines of ``phase`` and ``phase-look`` from ``step`` on: a resumed loop will write them again."""
        path = self.path / "metrics.jsonl"
        if not self.writes or not path.exists():
            return
        rows = [line for line in path.read_text().splitlines() if not _is_after(line, phase, step)]
        write_text(path, "".join(row + "\n" for row in rows))

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Checkpoint ``checkpoints/name``."""
        if self.writes:
            save_state(self.path / "checkpoints" / name, state)

    def load(self, name: str) -> dict[str, Any] | None:
        """The checkpoint ``name``, or None."""
        return load_state(self.path / "checkpoints" / name)

    def save_weights(self, name: str, network: nn.Module, facts: Mapping[str, str] | None = None) -> None:
        """The state dict of ``network`` as ``networks/name.safetensors``, for another run to load.

        Args:
            facts: for the file's header.
        """
        if not self.writes:
            return
        path = self.path / "networks" / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(".part")
        save_file({key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
                   for key, value in network.state_dict().items()}, part, None if facts is None else dict(facts))
        part.replace(path)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write ``name`` atomically; NaN and infinities become null, so that any JSON reader takes it."""
        if self.writes:
            write_text(self.path / name, json.dumps(_finite(value), indent=1))

    def describe(self, **facts: Any) -> None:
        """Add to manifest.json, written at once. A run that is taken up again keeps its first ``start``."""
        path = self.path / "manifest.json"
        if not self.facts and path.exists():
            facts["start"] = json.loads(path.read_text())["start"]
        self.facts |= facts
        self.write_json(path.name, self.facts)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None

    def _tensorboard(self) -> Any:
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.path / "tensorboard"))
        return self._board


def check_out(path: Path, resume: bool) -> None:
    """Find out early, and without writing, that ``path`` cannot become a run directory.

    Raises:
        UserError: it holds a run already (without ``resume``), is a file, or lies where nothing can be written.
    """
    if (path / "config.yaml").exists() and not resume:
        raise UserError(f"--out {path} already holds a run; give another folder, or --resume to go on with it")
    place = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not place.is_dir():
        raise UserError(f"--out {path}: {place} is a file; expected a folder that can be created or written")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"--out {path} cannot be written (no permission in {place})")


def default_folder(base: Path, resume: bool) -> Path:
    """The run directory of a command that was given none: ``base``, or ``base-2``, ``base-3``, ...

    The first that is free; with ``resume`` the last that is taken. Of several processes all take ``base``: one may have
    created it before the next one looks.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or not _taken(base):
        return base
    last = base
    for number in count(2):
        free = base.with_name(f"{base.name}-{number}")
        if not _taken(free):
            break
        last = free
    chosen = last if resume else free
    if chosen != base:
        LOG.info(f"run: {chosen}" if resume else f"run: {chosen}, for {base} holds a run (--resume goes on with the "
                   "last one)")
    return chosen


def _taken(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def manifest(seed: int, device: str, **more: Any) -> dict[str, Any]:
    """What it takes to run this again: versions, seed, device, threads, git revision, start time; within `called_by`,
    that call in place of a command."""
    call = _call.get()
    return {
        "versions": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
        "seed": seed,
        "git": _revision(),
        "start": now(),
        **more,
        **({} if call is None else {"command": call}),
    }


@contextmanager
def called_by(call: str) -> Iterator[None]:
    """Runs that begin within it were started by ``call`` and not by a command."""
    token = _call.set(call)
    try:
        yield
    finally:
        _call.reset(token)


def now() -> str:
    """The time, UTC, as manifests have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _same_config(kept: Path, config: Mapping[str, Any]) -> None:
    old = yaml.safe_load(kept.read_text()) or {}
    new = yaml.safe_load(yaml.safe_dump(dict(config)))
    changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    if changed:
        raise UserError(f"--resume: {kept} was written with another configuration (different: {', '.join(changed)}); "
                        "use the same options or another --out")


def _is_after(line: str, phase: str, step: int) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        return True
    return row.get("phase") in (phase, f"{phase}-look") and row.get("step", 0) >= step


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(key): _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
    return value


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _revision() -> str | None:
    try:
        out = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True,
                             timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() or None if out.returncode == 0 else None
