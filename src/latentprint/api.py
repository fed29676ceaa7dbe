"""Audits from Python: of a model and images in memory, or of what the command line takes.

The caller's model, random states and settings of PyTorch stay as they were, and nothing is printed: what a run says is
logged under ``latentprint``.
"""

from __future__ import annotations

import random
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from latentprint.auditing.compare import slug
from latentprint.config import Config, changed, load_config, of_channel
from latentprint.engine.loop import is_main
from latentprint.engine.run import called_by, default_folder
from latentprint.errors import UserError
from latentprint.keys import did_you_mean
from latentprint.log import LOG, shown
from latentprint.memory import held
from latentprint.objects import Images, Model, Named
from latentprint.report.compare import compare_runs
from latentprint.report.html import render_run
from latentprint.results import Comparison, Report, load_report

__all__ = ["audit", "compare", "load_report"]

ChannelName = Literal["label", "template", "feature"]
CHANNELS: tuple[str, ...] = get_args(ChannelName)
_running = threading.Lock()


def audit(
    channel: ChannelName,
    *,
    model: Model | None = None,
    cut: str | None = None,
    preprocess: Any = None,
    classes: Sequence[str] | None = None,
    private: Images | None = None,
    public: Images | list[Images] | None = None,
    heldout: Images | None = None,
    evaluation: Images | None = None,
    size: int | None = None,
    preset: str = "small",
    config: Config | Path | str | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    progress: bool = False,
    **settings: Any,
) -> Report:
    """Attack a model and measure what it leaks.

    Examples:
        >>> import latentprint as lp
        >>> lp.audit("label", preset="tiny", out="runs/mine", sede=1)
        Traceback (most recent call last):
            ...
        latentprint.errors.UserError: audit label: unknown key 'sede' (from keyword arguments); did you mean 'seed'?

    Args:
        channel: ``label``, ``template`` or ``feature``.
        model: the classifier, the recogniser, or the network that is cut: an ``nn.Module`` (a copy of it is audited, of
            which the adversary sees everything); a function of images ``(B, 3, H, W)`` float32 in [0, 1] to scores or
            embeddings (of which it sees the answers); or what the setting ``model`` takes as text. A path that ends in
            ``.yaml`` holds settings of a model. None: the preset's own.
        cut: in the feature channel the last layer on the device, as ``named_modules`` calls it.
        preprocess: what is done to images in [0, 1] before the model sees them: a torchvision or timm transform for
            evaluation, the dictionary of ``timm.data.resolve_data_config``, or settings such as ``mean``, ``std``,
            ``crop`` and ``input_size``. None: nothing, for a model in memory.
        classes: in the label channel what the outputs stand for, in order; labels of ``private`` are their numbers.
        private: photos of the people under attack; in the feature channel the images that the network learned from.
            Images are an `ImageSet`, a torch ``Dataset``, tensors ``(images, labels)``, images alone (each of a person
            of its own), a folder with a subfolder for each person, or a source as in settings (``{"kind": ...}``).
        public: what the adversary may use; also a list.
        heldout: other photos of the private people, which the model has not seen; in the feature channel other images
            of the same classes, which are attacked.
        evaluation: further people, on whom the judge's thresholds are set.
        size: height and width in pixels to which images are cropped and resized; None: 64, and in the feature channel
            as they are in memory.
        preset: ``tiny``, ``small``, ``full``, and those that ``latentprint audit CHANNEL --help`` names.
        config: a YAML file of settings over the preset, or a typed config in place of both.
        out: the run directory; None: the next free one of ``runs/audit-CHANNEL-PRESET``.
        resume: go on with a run that was cut short, with the same objects as before.
        progress: show on stderr what the command line shows.
        settings: all other settings, nested (``attack={"steps": 100}``) or dotted (``**{"attack.steps": 100}``), over
            those before. Models and images in memory may stand in them.

    Raises:
        UserError: something given is wrong, in the command line's sentence; or another audit is running.
        RunFailed: the run broke down.
    """
    given = {"model": model, "cut": cut, "preprocess": preprocess, "classes": classes, "private": private,
             "public": public, "heldout": heldout, "evaluation": evaluation, "size": size, **settings}
    with _running_alone(f"latentprint.audit({channel!r}, ...)", progress):
        named = Named(_known(channel))
        found = _resolved(channel, preset, config, named, [given])
        target = _folder("audit", channel, preset, out, resume)
        _run(channel, found, target, resume, named)
    return load_report(target)


def compare(
    channel: ChannelName,
    *,
    cases: Mapping[str, Mapping[str, Any]],
    preset: str = "small",
    config: Config | Path | str | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    progress: bool = False,
    **arguments: Any,
) -> Comparison:
    """Audit several cases with the same data, seeds and attack, such as a model without and with a defence.

    Args:
        channel: see `audit`.
        cases: by name what each case has of its own, arguments and settings of `audit`, such as ``{"plain": {},
            "noise": {"defences": [{"kind": "noise"}]}}``. Each is compared with the first, in the label and
            feature channels image by image.
        out: a folder with a run directory for each case, and ``comparison.html``; None: the next free one of
            ``runs/compare-CHANNEL-PRESET``.
        preset, config, resume, progress: see `audit`.
        arguments: what all cases have in common, arguments and settings of `audit`.

    Raises:
        UserError, RunFailed: see `audit`.
    """
    if len(cases) < 2:
        raise UserError(f"compare {channel}: cases: give two or more, as in cases={{'plain': {{}}, 'noise': {{...}}}}")
    with _running_alone(f"latentprint.compare({channel!r}, ...)", progress):
        named = Named(_known(channel))
        found = {name: _resolved(channel, preset, config, named, [{**arguments, **case}])
                 for name, case in cases.items()}
        target = _folder("compare", channel, preset, out, resume)
        folders = {name: target / slug(name) for name in found}
        if len(set(folders.values())) < len(found):
            raise UserError(f"compare {channel}: cases: names must differ in letters or digits; got {', '.join(found)}")
        if channel != "template":
            folders = _run_paired(channel, found, target, resume, named)
        else:
            for name, folder in folders.items():
                _run(channel, found[name], folder, resume and folder.exists(), named)
        if is_main():
            compare_runs(list(folders.values()), target)
    return Comparison(target, {name: load_report(folder) for name, folder in folders.items()})


# ---- what both do ----


def _known(channel: str) -> str:
    if channel not in CHANNELS:
        raise UserError(f"unknown channel '{channel}'; {did_you_mean(channel, CHANNELS)}")
    return channel


def _resolved(channel: str, preset: str, config: Config | Path | str | None, named: Named,
              arguments: Sequence[Mapping[str, Any]]) -> Config:
    """The settings of one audit, with the names of objects in them."""
    cls: type[Config] = of_channel(channel, "presets", "{}Config")
    try:
        layers = [layer for each in arguments for layer in named.layers(each)]
    except UserError as error:
        raise UserError(f"audit {channel}: {error}") from None
    if isinstance(config, Config):
        if not isinstance(config, cls):
            raise UserError(f"audit {channel}: config: expected {cls.__name__}, got {type(config).__name__}")
        for layer in layers:
            config = changed(config, layer, f"audit {channel}")
        return config
    return load_config(cls, preset, None if config is None else Path(config), channel=f"audit {channel}",
                       presets=of_channel(channel, "presets", "PRESETS"), overrides=layers)


def _folder(command: str, channel: str, preset: str, out: Path | str | None, resume: bool) -> Path:
    return default_folder(Path("runs") / f"{command}-{channel}-{preset}", resume) if out is None else Path(out)


def _run(channel: str, config: Config, out: Path, resume: bool, named: Named, **more: Any) -> None:
    """One audit, with its page."""
    run: Callable[..., Any] = of_channel(channel, "compare", "run_compared")
    with held(named.objects):
        run(config, out, resume, **more)
    if is_main():
        render_run(out)


def _run_paired(channel: str, found: Mapping[str, Config], out: Path, resume: bool, named: Named) -> dict[str, Path]:
    """The first case with the others as its variants, compared image by image; the folder of each case."""
    (first, plain), *others = found.items()
    dump = plain.model_dump(mode="json")
    own = {name: {key: value for key, value in each.model_dump(mode="json").items() if value != dump[key]}
           for name, each in others}
    _run(channel, changed(plain, {"variants": own}, f"compare {channel}"), out, resume, named, own=first)
    return {first: out, **{name: out / "variants" / slug(name) for name in own}}


@contextmanager
def _running_alone(call: str, progress: bool) -> Iterator[None]:
    """One audit at a time, which leaves nothing of its own behind in the process."""
    if not _running.acquire(blocking=False):
        raise UserError("another audit is running in this process, and both would draw from PyTorch's one random "
                        "state; wait for it, or start another process")
    try:
        with ExitStack() as stack:
            stack.enter_context(_state_kept())
            stack.enter_context(shown(progress))
            stack.enter_context(called_by(call))
            yield
    finally:
        _running.release()


@contextmanager
def _state_kept() -> Iterator[None]:
    """PyTorch as it is when a process starts, and afterwards as the host had set it; warnings are logged."""
    python, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002 (the host's, not ours)
    threads, gradients, dtype = torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpu = torch.cuda.current_device() if gpus else None
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=range(gpus)))
        stack.enter_context(torch.inference_mode(False))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(warnings.catch_warnings())
        warnings.showwarning = _log_warning
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)  # noqa: NPY002
            torch.set_num_threads(threads)
            torch.set_grad_enabled(gradients)
            torch.set_default_dtype(dtype)
            if gpu is not None:
                torch.cuda.set_device(gpu)


def _log_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    LOG.warning("%s: %s", category.__name__, message)
