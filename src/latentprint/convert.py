"""``latentprint convert``: files that others published, once, into a folder of assets that every command takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from latentprint.errors import UserError

app = typer.Typer(
    help="Turn published weights into a folder of assets, for `--set assets=FOLDER` of any audit; `faces` writes to "
         "your own folder, where every audit looks. Nothing is downloaded: `latentprint doctor` says who publishes "
         "what.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown",
)  # fmt: skip

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder of assets, made or added to.")]
Trust = Annotated[bool, typer.Option("--trust-pickle", help=(
    "Let a file that is more than tensors run the code in it. Only for a file whose maker you trust."))]


@app.command(epilog="`latentprint convert reface last.ckpt --out assets-reface --trust-pickle`")
def reface(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="REFace's last.ckpt.")],
    out: Out,
    faces: Annotated[Path | None, typer.Option(metavar="DIR", help=(
        "Some dozens of aligned public photos, in any subfolders: their mean look stands for an identity image where "
        "an attack has none."))] = None,
    trust_pickle: Trust = False,
) -> None:
    """REFace's checkpoint: prior, autoencoder and recogniser."""
    from latentprint.data.folder import load_flat
    from latentprint.plugins.reface.convert import convert_reface

    pictures = None if faces is None else load_flat(faces, 512)
    _convert(out, lambda: convert_reface(checkpoint, out, faces=pictures, trusted=trust_pickle))


@app.command(epilog="`latentprint convert diffusers stable-diffusion-v1-5 --out assets-sd`, then "
                    "`latentprint pretrain prior --set base=assets-sd`")
def diffusers(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="With unet, vae and scheduler in it.")],
    out: Out,
    tokens: Annotated[int, typer.Option(min=4, help="Identity tokens.")] = 8,
) -> None:
    """A Stable Diffusion folder: a prior that has yet to learn what identity tokens mean, and its autoencoder."""
    from latentprint.plugins.stable.convert import convert_diffusers

    _convert(out, lambda: convert_diffusers(folder, out, tokens))


@app.command(epilog="`latentprint convert recogniser backbone.pth --architecture iresnet100 --name judge "
                    "--out assets-arc`")
def recogniser(
    weights: Annotated[Path, typer.Argument(metavar="FILE", help="The state dict that was published.")],
    architecture: Annotated[str, typer.Option(metavar="NAME", help=(
        "ir-se50, ir-50, adaface-ir50, adaface-ir101, iresnet18, iresnet34, iresnet50, iresnet100 or mobilefacenet."))],
    out: Out,
    alignment: Annotated[str, typer.Option(metavar="NAME", help=(
        "Of the photos it will see. arcface: to five points; ffhq: with head and shoulders, the face is cut out."))]
    = "arcface",
    name: Annotated[str, typer.Option(help="What the asset is called: teacher, judge or another word.")] = "teacher",
    trust_pickle: Trust = False,
) -> None:
    """A face recogniser: ArcFace, CosFace, AdaFace, MobileFaceNet."""
    from latentprint.plugins.arcface.convert import convert_recogniser

    _convert(out, lambda: convert_recogniser(weights, out, architecture, alignment, name, trust_pickle))


@app.command(epilog="`npm pack @vladmandic/face-api@1.7.15 @vladmandic/human@3.3.6`, then "
                    "`latentprint convert faces vladmandic-*.tgz`, then `latentprint audit template --set "
                    "recogniser.model=faceres --set judge=dlib`")
def faces(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help=(
        "The packages as `npm pack` and `pip download` wrote them, or folders with them unpacked."))],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help=(
        "The folder of assets, made or added to; by default your own, where every audit looks: $LATENTPRINT_ASSETS, or "
        "where the system keeps a program's data."))] = None,
) -> None:
    """Networks of real faces: dlib's recogniser, faceres, 68 landmarks, expressions and a detector."""
    from latentprint.models.assets import read_index, user_assets
    from latentprint.models.published import how_to_get
    from latentprint.plugins.faces.convert import convert_faces, missing

    folder = out or user_assets()
    if folder is None:
        raise UserError("LATENTPRINT_ASSETS is empty, so there is no folder of your own; give --out DIR")
    _refuse_file(folder)
    written = convert_faces(paths, folder)
    index = read_index(folder)
    for path in written:
        typer.echo(f"{path.stem}: {path}, {path.stat().st_size / 2**20:.0f} MiB, from {index[path.stem]['source']}")
    for asset in missing(folder):
        typer.echo(f"missing: {asset}; to have it, type: {how_to_get(asset)}")
    if recognisers := [name for name, record in index.items() if record["kind"] == "face-recogniser"]:
        typer.echo(f"use: by name in every audit, such as --set judge={recognisers[0]} or --set "
                   f"recogniser.model={recognisers[-1]}" + ("" if out is None else f", with --set assets={out}"))


def add_align(parent: typer.Typer) -> None:
    """Register ``align`` beside the group."""

    @parent.command(epilog="`latentprint align photos --out aligned`")
    def align(
        folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Photos, in any subfolders.")],
        out: Annotated[Path, typer.Option(metavar="DIR", help="Where aligned copies go, in the same subfolders.")],
        size: Annotated[int, typer.Option(min=16, max=2048, help="Pixels a side.")] = 112,
        framing: Annotated[Literal["dlib", "arcface", "ffhq"], typer.Option(help=(
            "dlib: hair and chin within the picture, for dlib, faceres and priors; arcface: the face alone, for "
            "recognisers of that family; ffhq: head and shoulders."))] = "dlib",
        zoom: Annotated[float | None, typer.Option(min=0.5, max=4.0, help=(
            "Of framing dlib: sides of dlib's own chip that a picture spans, 1.3 by default."))] = None,
        assets: Annotated[Path | None, typer.Option(metavar="DIR", help=(
            "A folder with the networks detector and landmarks, which `latentprint convert faces` writes."))] = None,
        detector: Annotated[Path | None, typer.Option(metavar="FILE", help=(
            "OpenCV's YuNet in place of these networks, an .onnx file of its model zoo."))] = None,
    ) -> None:
        """Align faces to five points, as recognisers expect them."""
        from latentprint.data.align import ZOOM, align_folder, yunet
        from latentprint.data.listing import Passed
        from latentprint.plugins.faces.find import face_finder

        if zoom is not None and framing != "dlib":
            raise UserError(f"--zoom is for --framing dlib; {framing} has its own")
        detect = face_finder(assets) if detector is None else yunet(detector)
        passed = Passed()
        written, without = align_folder(folder, out, detect, size, framing, passed, ZOOM if zoom is None else zoom)
        missed = f", no face found in {len(without)}, the first {without[0]}" if without else ""
        typer.echo(f"{out}: {written} aligned{missed}{f'; {passed}' if str(passed) else ''}")


def _convert(out: Path, make: Callable[[], Sequence[Path]]) -> None:
    _refuse_file(out)
    for path in make():
        typer.echo(f"{path}: {path.stat().st_size / 2**20:.0f} MiB")


def _refuse_file(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; expected a folder")
