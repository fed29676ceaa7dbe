"""Settings of the template channel's defences; `latentprint.template.defenses` builds them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from latentprint.config import Config


class NoProtection(Config):
    """Templates are stored as the recogniser gives them."""

    kind: Literal["none"] = "none"


class NoiseConfig(Config):
    """Gaussian noise on what is stored; probes are compared as they are."""

    kind: Literal["noise"] = "noise"
    length: float = Field(1.0, gt=0, description="typical length of the noise, where templates have length 1")


class QuantiseConfig(Config):
    """Every entry in few bits; one bit is its sign."""

    kind: Literal["quantise"] = "quantise"
    bits: int = Field(1, ge=1, le=8, description="bits an entry")
    reach: float = Field(3.0, gt=0, description="outermost levels, in typical sizes of an entry (1 / sqrt(dimensions))")


class PartialConfig(Config):
    """A fixed random part of the entries is stored."""

    kind: Literal["partial"] = "partial"
    kept: float = Field(0.5, gt=0, le=1, description="share of the entries that is stored")


class ProjectionConfig(Config):
    """Orthonormal random directions, fewer than there are entries."""

    kind: Literal["projection"] = "projection"
    share: float = Field(0.5, gt=0, le=1, description="number of directions, as a share of the entries")
    keyed: bool = Field(False, description="directions of every person's own; false: the same for all")


class PolyProtectConfig(Config):
    """PolyProtect (Hahn and Marcel 2022, arXiv 2110.00434): polynomials over runs of entries, one a person."""

    kind: Literal["polyprotect"] = "polyprotect"
    terms: int = Field(5, ge=2, le=7, description="entries of a run; exponents are a permutation of 1 to this")
    overlap: int = Field(4, ge=0, description="entries that a run shares with the next; fewer than terms")
    reach: int = Field(50, ge=2, description="coefficients are whole numbers from minus this to this, not 0")


class MLPHashConfig(Config):
    """MLP-Hash (Shahreza et al. 2023, arXiv 2204.11054): signs of a random network's answer, one network a person."""

    kind: Literal["mlp-hash"] = "mlp-hash"
    layers: int = Field(2, ge=1, description="layers with random orthonormal weights")
    steepness: float = Field(1.0, gt=0, description="inside the tanh between layers, for entries of order one")


Protection = Annotated[
    NoProtection | NoiseConfig | QuantiseConfig | PartialConfig | ProjectionConfig | PolyProtectConfig | MLPHashConfig,
    Field(discriminator="kind")]


def described(protection: Protection) -> str:
    """Kind, and what is not as it comes: ``quantise (bits 2)``."""
    changed = protection.model_dump(exclude_defaults=True)
    changed.pop("kind", None)
    shown = ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
                      for key, value in changed.items())
    return f"{protection.kind} ({shown})" if shown else protection.kind
