"""A network of the user's own, of any input and output form, as a function of images ``(B, C, H, W)`` to ``(B, n)``.

`adapted` runs it on two images and on one, and finds out what its settings do not say: which of several outputs is
meant, whether channels come last, how many images it takes at once, in which type, and whether it changes its input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from latentprint.errors import RunFailed, UserError, useful_line
from latentprint.models.outside import HttpNetwork, OutsideNetwork

Layout = Literal["nchw", "nhwc"]

#: Settings of every network of one's own.
OutputSetting = Annotated[str | int | None, Field(description=(
    "which of several outputs counts, by name or number, as in logits or 0; null: the only one that fits"))]
LayoutSetting = Annotated[Layout | None, Field(description=(
    "order of the input's dimensions: nchw, or nhwc with channels last; null: the one that works"))]
BatchSetting = Annotated[int | None, Field(ge=1, description=(
    "images that a program with a fixed batch takes at once; null: any number, or what is found to work"))]

#: Numbers of images that programs are usually saved with.
BATCHES = (1, 2, 4, 8, 16, 32)
#: Names of the output that is meant where several have the right shape.
PREFERRED = {"logits": ("logits",), "embeddings": ("embeddings", "embedding", "image_embeds", "pooler_output")}
#: Outputs that a message lists.
LISTED = 8

Kind = Literal["logits", "embeddings"]


@dataclass(frozen=True)
class Form:
    """How a network takes images and answers; None: not said, or nothing special.

    Attributes:
        output: name or number of the output, dotted where outputs nest.
        layout: of its input.
        batch: images that it takes at once; fewer are filled up with copies of the last.
        dtype: of its input, where that is not float32.
        changes_input: whether it works on its input in place, and so is given a copy.
    """

    output: str | int | None = None
    layout: Layout | None = None
    batch: int | None = None
    dtype: torch.dtype | None = None
    changes_input: bool = False


class Misread(UserError):
    """The network ran, and what came out has not one row for each image."""


class ForeignNetwork(nn.Module):
    """A network in its form.

    Args:
        network: to be called with what `Form` says.
        width: entries of a row of its answer.
        kind: what the answer is, for messages and for choosing among outputs.
        name: begins every message; its settings are found there.
    """

    def __init__(self, network: nn.Module, form: Form, width: int, kind: Kind, name: str) -> None:
        super().__init__()
        self.network, self.form, self.width, self.kind, self.name = network, form, width, kind, name

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)``, preprocessed, to ``(B, width)`` float32, differentiable where the network is.

        Raises:
            UserError: the network fails on them, or its answer cannot be read.
        """
        return self.in_pieces(x, lambda piece: (self.read(self.network(piece), len(piece)),))[0]

    def in_pieces(self, x: Tensor, function: Callable[[Tensor], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """``function`` of the images as the network takes them, a piece at a time, joined; errors as in `forward`."""
        try:
            return self._joined(x, function)
        except (UserError, RunFailed, torch.OutOfMemoryError):
            raise
        except (Exception, SystemExit) as error:  # whatever the user's own code raises
            shape = tuple(x.shape[1:])
            few = f"; if it takes fewer at once, set {self.name}.fixed_batch" if len(x) > 2 else ""
            raise UserError(f"{self.name} fails on {_count(len(x))} {shape}: {_line(error)}{few}") from error

    def _joined(self, x: Tensor, function: Callable[[Tensor], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(torch.is_grad_enabled()):  # put back what the network may set
            parts = [tuple(each[:n] for each in function(piece)) for piece, n in self._pieces(x)]
        return tuple(torch.cat(column) for column in zip(*parts, strict=True)) if len(parts) > 1 else parts[0]

    def _pieces(self, x: Tensor) -> Iterator[tuple[Tensor, int]]:
        """What the network is called with, and how many rows of the answer count."""
        form = self.form
        if form.layout == "nhwc":
            x = x.permute(0, 2, 3, 1)
        if form.dtype is not None:
            x = x.to(form.dtype)
        if form.changes_input:
            x = x.clone()
        if form.batch is None:
            yield x, len(x)
            return
        for piece in x.split(form.batch):
            missing = form.batch - len(piece)
            yield torch.cat([piece, piece[-1:].expand(missing, -1, -1, -1)]) if missing else piece, len(piece)

    def read(self, answer: Any, n: int) -> Tensor:
        """The rows ``(n, width)`` in an answer to n images.

        Raises:
            Misread: it has not one row for each image. UserError: it is unclear which output is meant, or that is no
                row of scores.
        """
        found = self.chosen(answer, n)[1]
        if found.is_complex():
            raise UserError(f"{self.name}: its answer is {_shown(found)}; it must return {self.kind}, a real number "
                            f"for each of {self.width}")
        if not found.is_floating_point():
            raise UserError(f"{self.name}: its answer is {_shown(found)}, whole numbers such as the class it decided "
                            f"for; it must return {self.kind}, a number for each of {self.width}, before any argmax")
        rows = _rows(found, n)
        if rows is None:
            raise Misread(f"{self.name} must answer {_count(n)} with {self.kind} ({n}, {self.width}), got "
                          f"{tuple(found.shape)}")
        return rows.float()

    def chosen(self, answer: Any, n: int) -> tuple[str, Tensor]:
        """The output that is meant and its name ("": there is but one, a tensor).

        Raises:
            UserError: there is none of that name, or several could be meant.
        """
        found = dict(_tensors(answer))
        if self.form.output is not None:
            return self._named(found, self.form.output)
        if list(found) == [""]:
            return "", found[""]
        if not found:
            raise UserError(f"{self.name}: its answer is {_article(answer)} and holds no tensor; it must return "
                            f"{self.kind} ({n}, {self.width})")
        fitting = [name for name, value in found.items() if value.is_floating_point() and self._fits(value, n)]
        preferred = [name for name in fitting if name.rpartition(".")[2] in PREFERRED[self.kind]]
        if len(fitting) == 1 or len(preferred) == 1:
            name = fitting[0] if len(fitting) == 1 else preferred[0]
            return name, found[name]
        several = f"several of which could be the {self.kind}" if fitting else (
            f"none of which is ({n}, {self.width}), as {self.kind} would be")
        raise UserError(f"{self.name}: its answer is {_article(answer)} of {_listed(found)}, {several}: set "
                        f"{self.name}.output to the name or number of the right one")

    def _fits(self, value: Tensor, n: int) -> bool:
        rows = _rows(value, n)
        return rows is not None and rows.shape[1] == self.width

    def _named(self, found: dict[str, Tensor], output: str | int) -> tuple[str, Tensor]:
        key = str(output)
        if key in found:
            return key, found[key]
        names = list(found)
        if names == [""] and output in (0, "0"):
            return "", found[""]
        if isinstance(output, int) and -len(names) <= output < len(names):
            return names[output], found[names[output]]
        there = f"there is {_listed(found)}" if names != [""] else "it is one tensor: leave the setting out"
        raise UserError(f"{self.name}.output: its answer has no '{output}'; {there}")


def adapted(network: nn.Module, images: Tensor, width: int, form: Form, kind: Kind,
            name: str) -> tuple[ForeignNetwork, list[str]]:
    """A network in the first form that works, what is set being kept, and what was found out, a line each.

    A service is not tried: it counts every image.

    Args:
        images: two, preprocessed, ``(2, C, H, W)``.
        kind, width, name: see `ForeignNetwork`.

    Raises:
        UserError: no form works, and what goes wrong in the likeliest; or its answer cannot be read.
    """
    if isinstance(network, HttpNetwork):
        return ForeignNetwork(network, form, width, kind, name), []
    network.eval()
    first: BaseException | None = None
    for candidate in _candidates(form, network):
        made = ForeignNetwork(network, candidate, width, kind, name)
        try:
            changes = _tried(made, images)
        except Misread as error:
            first = first or error
        except (UserError, RunFailed, torch.OutOfMemoryError):
            raise
        except (Exception, SystemExit) as error:  # whatever the user's own code raises
            first = first or error
        else:
            made.form = replace(candidate, changes_input=changes)
            return made, [*_told(form, made.form), *_told_of_output(made, images)]
    assert first is not None
    raise _failure(network, images, width, form, kind, name, first) from first


@torch.no_grad()
def _tried(made: ForeignNetwork, images: Tensor) -> bool:
    """Ask about two images and about one; whether the network has changed what it was given."""
    given = images.clone()
    made._joined(given, lambda piece: (made.read(made.network(piece), len(piece)),))
    changed = not torch.equal(given, images)
    made._joined(images[:1].clone(), lambda piece: (made.read(made.network(piece), len(piece)),))
    return changed


def _candidates(form: Form, network: nn.Module) -> Iterator[Form]:
    """What is set, then one thing changed at a time, then two."""
    layouts: tuple[Layout, ...] = ("nhwc",) if form.layout is None else ()
    batches = BATCHES if form.batch is None else ()
    kinds = {value.dtype for value in (*network.parameters(), *network.buffers()) if value.is_floating_point()}
    dtypes = sorted(kinds - {torch.float32}, key=str) or [torch.float16]
    if isinstance(network, OutsideNetwork):
        dtypes = []
    yield form
    yield from (replace(form, layout=layout) for layout in layouts)
    yield from (replace(form, batch=batch) for batch in batches)
    yield from (replace(form, dtype=dtype) for dtype in dtypes)
    yield from (replace(form, layout=layout, batch=batch) for layout in layouts for batch in batches)
    yield from (replace(form, dtype=dtype, batch=1) for dtype in dtypes if batches)
    yield from (replace(form, dtype=dtype, layout=layout) for dtype in dtypes for layout in layouts)


def _told(given: Form, found: Form) -> Iterator[str]:
    if found.layout != given.layout:
        yield "it takes images with their channels last, (B, H, W, C), and is given them so (layout: nhwc)"
    if found.batch != given.batch:
        many = "one image" if found.batch == 1 else f"{found.batch} images"
        yield f"it was saved for {many} at a time and is asked so (fixed_batch: {found.batch})"
    if found.dtype != given.dtype:
        yield f"it takes {str(found.dtype).removeprefix('torch.')} and is given it; its answers are read as float32"
    if found.changes_input:
        yield "it changes its input in place and is given a copy"


@torch.no_grad()
def _told_of_output(made: ForeignNetwork, images: Tensor) -> Iterator[str]:
    """Which output was taken where that was not set, and what it was reshaped from."""
    piece, n = next(made._pieces(images.clone()))
    answer = made.network(piece)
    name, found = made.chosen(answer, len(piece))
    if name and made.form.output is None:
        yield (f"its answer is {_article(answer)} of {_listed(dict(_tensors(answer)))}: '{name}' is taken as the "
               f"{made.kind} (output: {name})")
    if found.ndim != 2:
        yield f"its answer {tuple(found.shape)} is read as ({n}, {made.width})"


def _failure(network: nn.Module, images: Tensor, width: int, form: Form, kind: Kind, name: str,
             error: BaseException) -> UserError:
    """The sentence about a network that works in no form."""
    if isinstance(error, Misread):
        return error
    grey = ForeignNetwork(network, form, width, kind, name)
    hint = ""
    if images.shape[1] == 3:
        with suppress(Exception, SystemExit):  # most take no image of one channel
            _tried(grey, images[:, :1])
            hint = f"; it takes images of one channel: set {name}.colours to grey"
    if not hint and (declared := getattr(network, "declared", None)):
        hint = f"; its input is declared as {declared}"
    hint = hint or (f"; if it was made for another size, set {name}.input_size, and for a fixed number of images "
                    f"{name}.fixed_batch")
    size = "x".join(map(str, images.shape[2:]))
    return UserError(f"{name} cannot take two {size} images: {_line(error).rstrip('.')}{hint}")


def _line(error: BaseException) -> str:
    return "it ends the program (sys.exit)" if isinstance(error, SystemExit) else useful_line(error)


# ---- answers ----


def _tensors(answer: Any, name: str = "", depth: int = 3) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in an answer with its dotted name: key, field, attribute or number."""
    if isinstance(answer, np.ndarray):
        answer = torch.from_numpy(answer)
    if isinstance(answer, Tensor):
        yield name, answer
        return
    if depth:
        for key, value in _parts(answer):
            yield from _tensors(value, f"{name}.{key}" if name else str(key), depth - 1)


def _parts(answer: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(answer, Mapping):
        yield from answer.items()
    elif isinstance(answer, tuple) and hasattr(answer, "_fields"):
        yield from zip(answer._fields, answer, strict=True)
    elif isinstance(answer, list | tuple):
        yield from enumerate(answer)
    elif hasattr(answer, "__dict__"):
        yield from ((key, value) for key, value in vars(answer).items() if not key.startswith("_"))


def _rows(value: Tensor, n: int) -> Tensor | None:
    """``(n, m)`` of a tensor that has a row for each of n images and else dimensions of length 1; None of others."""
    if value.ndim == 1 and n == 1 and len(value) > 1:
        return value[None]
    if value.ndim < 2 or len(value) != n or sum(length > 1 for length in value.shape[1:]) > 1:
        return None
    return value.flatten(1)


def _article(answer: Any) -> str:
    kind = type(answer).__name__
    return f"a{'n' if kind[0].lower() in 'aeiou' else ''} {kind}"


def _listed(found: Mapping[str, Tensor]) -> str:
    shown = [f"'{name}' {_shown(value)}" for name, value in found.items()]
    more = f" and {len(shown) - LISTED} more" if len(shown) > LISTED else ""
    return (", ".join(shown[:LISTED]) + more) or "no tensors"


def _shown(value: Tensor) -> str:
    kind = "" if value.is_floating_point() else f" {str(value.dtype).removeprefix('torch.')}"
    return f"{tuple(value.shape)}{kind}"


def _count(n: int) -> str:
    return {1: "one image", 2: "two images"}.get(n, f"{n} images")


def bare(module: nn.Module) -> nn.Module:
    """The network itself, whatever form it has."""
    return module.network if isinstance(module, ForeignNetwork) else module
