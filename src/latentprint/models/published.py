"""Packages of other publishers with networks of real faces: what each has, and how to get it.

Nothing of them ships here and nothing is downloaded: ``latentprint convert faces`` reads what the registries' own
clients fetched. Licence facts are those that the packages state; the training sets have terms of their own.
"""

from __future__ import annotations

from typing import NamedTuple


class Package(NamedTuple):
    """A package at one version.

    Attributes:
        registry: npm or PyPI. get: the command that fetches it. archive: the file that this writes.
        assets: what `latentprint convert faces` makes of it.
    """

    name: str
    version: str
    registry: str
    licence: str
    get: str
    archive: str
    assets: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.registry}), {self.licence}"

    @property
    def convert(self) -> str:
        """The command that makes assets of it."""
        return f"latentprint convert faces {self.archive}"


FACE_API = Package("@vladmandic/face-api", "1.7.15", "npm", "MIT", "npm pack @vladmandic/face-api@1.7.15",
                   "vladmandic-face-api-1.7.15.tgz", ("dlib", "landmarks", "expression"))
HUMAN = Package("@vladmandic/human", "3.3.6", "npm", "MIT", "npm pack @vladmandic/human@3.3.6",
                "vladmandic-human-3.3.6.tgz", ("faceres", "detector"))
MODELS = Package("face-recognition-models", "0.3.0", "PyPI", "CC0 1.0",
                 "pip download --no-deps face-recognition-models==0.3.0", "face_recognition_models-0.3.0.tar.gz",
                 ("dlib",))
PACKAGES = (FACE_API, HUMAN, MODELS)
#: Every asset that one of them has.
PUBLISHED = ("dlib", "faceres", "landmarks", "expression", "detector")


def how_to_get(asset: str) -> str | None:
    """What to type for an asset that a package has; None where none has it."""
    package = next((each for each in PACKAGES if asset in each.assets), None)
    return None if package is None else f"{package.get}; {package.convert}"
