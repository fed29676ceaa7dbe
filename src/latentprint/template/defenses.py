"""Protected templates: what is stored, how a probe is compared with it, and what it tells one who knows the scheme.

All similarities are cosines: of bits as -1 and 1 the cosine is ``1 - 2 Hamming distance / bits``.

An adversary who knows scheme and key asks which templates could have given what is stored. Each scheme
answers by `negative_log_likelihood`, in nats; `latentprint.template.recovery` looks for the likeliest template.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from latentprint.engine.seeds import derive, generator, seeded_noise
from latentprint.errors import UserError
from latentprint.template.protection import (
    MLPHashConfig,
    NoiseConfig,
    NoProtection,
    PartialConfig,
    PolyProtectConfig,
    ProjectionConfig,
    Protection,
    QuantiseConfig,
)

#: What an exact transform leaves uncertain, as a share of a typical entry: keeps likelihoods finite.
SLACK = 0.05
#: How sharply a bit says on which side of zero a number of order one lies.
BIT_SHARPNESS = 3.0


class Scheme(ABC):
    """A protection for templates of ``dim`` entries and length 1.

    Templates are ``(N, dim)``, ``keys`` ``(N,)`` int64 whose secrets apply; a scheme without ``keyed`` ignores them.
    """

    keyed = False
    bits = 32.0
    """Of a stored entry."""

    def __init__(self, dim: int, seed: int) -> None:
        self.dim, self.seed = dim, seed

    @abstractmethod
    def probe(self, templates: Tensor, keys: Tensor) -> Tensor:
        """What of a template is compared with what is stored, ``(N, D')``; differentiable almost everywhere."""

    @abstractmethod
    def negative_log_likelihood(self, templates: Tensor, stored: Tensor, keys: Tensor) -> Tensor:
        """``-log p(stored | template)`` in nats up to a constant, ``(N,)``; differentiable."""

    def stored(self, templates: Tensor, keys: Tensor) -> Tensor:
        """What is kept of a template at enrolment, ``(N, D')``."""
        return self.probe(templates, keys)


class Plain(Scheme):
    """No protection."""

    def probe(self, templates: Tensor, keys: Tensor) -> Tensor:
        return templates

    def negative_log_likelihood(self, templates: Tensor, stored: Tensor, keys: Tensor) -> Tensor:
        return _gaussian(templates - stored, SLACK / math.sqrt(self.dim))


class Noisy(Scheme):
    """Noise on what is stored, drawn once for each key."""

    def __init__(self, dim: int, seed: int, config: NoiseConfig) -> None:
        super().__init__(dim, seed)
        self.std = config.length / math.sqrt(dim)

    def probe(self, templates: Tensor, keys: Tensor) -> Tensor:
        return templates

    def stored(self, templates: Tensor, keys: Tensor) -> Tensor:
        seeds = torch.tensor([derive(self.seed, "template-noise", key) for key in keys.tolist()])
        return templates + self.std * seeded_noise(seeds, (self.dim,)).to(templates)

    def negative_log_likelihood(self, templates: Tensor, stored: Tensor, keys: Tensor) -> Tensor:
        return _gaussian(templates - stored, self.std)


class Quantised(Scheme):
    """Entries at the middle of ``2^bits`` equal cells; one bit is the sign."""

    def __init__(self, dim: int, seed: int, config: QuantiseConfig) -> None:
        super().__init__(dim, seed)
        self.bits = float(config.bits)
        self.reach = config.reach / math.sqrt(dim)
        self.cell = 2 * self.reach / 2**config.bits

    def probe(self, templates: Tensor, keys: Tensor) -> Tensor:
        if self.bits == 1:
            return _signs(templates)
        inside = templates.clamp(-self.reach, self.reach * (1 - 1e-6))
        return ((inside / self.cell).floor() + 0.5) * self.cell

    def negative_log_likelihood(self, templates: Tensor, stored: Tensor, keys: Tensor) -> Tensor:
        if self.bits == 1:
            return _bits(templates * math.sqrt(self.dim), stored)
        return _gaussian(templates - stored, self.cell / math.sqrt(12))


class Partial(Scheme):
    """A part of the entries, the same for everybody."""

    def __init__(self, dim: int, seed: int, config: PartialConfig) -> None:
        super().__init__(dim, seed)
        n = max(1, round(config.kept * dim))
        self.index = torch.randperm(dim, generator=generator(seed, "template-part"))[:n].sort().values

    def probe(self, templates: Tensor, keys: Tensor) -> Tensor:
        return templates[:, self.index.to(templates.device)]

    def negative_log_likelihood(self, templates: Tensor, stored: Tensor, keys: Tensor) -> Tensor:
        return _gaussian(self.probe(templates, keys) - stored, SLACK / math.sqrt(self.dim))


class Linear(Scheme):
    """What works with random orthonormal matrices, of everybody or of each key."""

    def __init__(self, dim: int, seed: int) -> None:
        super().__init__(dim, seed)
        self._matrix = lru_cache(maxsize=1024)(self._made)
        self._together = lru_cache(maxsize=4)(self._stacked)

    def applied(self, x: Tensor, keys: Tensor, name: str) -> Tensor:
        """``(N, dim)`` times each one's matrix."""
        found, place = (keys if self.keyed else 0 * keys).unique(return_inverse=True)
        if len(found) == 1:
            return x @ self._matrix(name, int(found[0])).to(x).T
        if len(found) == len(x):  # the adversary's case, step after step
            return torch.bmm(self._together(name, tuple(keys.tolist())).to(x), x[:, :, None])[:, :, 0]
        out = torch.empty_like(x)
        for i, key in enumerate(found.tolist()):
            out[place == i] = x[place == i] @ self._matrix(name, key).to(x).T
        return out

    def _stacked(self, name: str, keys: tuple[int, ...]) -> Tensor:
        return torch.stack([self._matrix(name, key) for key in keys])

    def _made(self, name: str, key: int) -> Tensor:
        """``(dim, dim)``, orthonormal."""
        return torch.linalg.qr(torch.randn(self.dim, self.dim, generator=generator(self.seed, name, key))).Q


class Projected(Linear):
    """Some of a random orthonormal basis's coordinates."""

    def __init__(self, dim: int, seed: int, config: ProjectionConfig) -> None:
        super().__init__(dim, seed)
        self.keyed, self.kept = config.keyed, max(1, round(config.share * dim))

    def probe(self, templates: Tensor, keys: Tensor) -> Tensor:
        return self.applied(templates, keys, "projection")[:, : self.kept]

    def negative_log_likelihood(self, templates: Tensor, stored: Tensor, keys: Tensor) -> Tensor:
        return _gaussian(self.probe(templates, keys) - stored, SLACK / math.sqrt(self.dim))


class PolyProtect(Scheme):
    """``p_i = sum_j c_j v_(i stride + j)^(e_j)`` over runs of entries, coefficients and exponents of each key.

    Entries are scaled to order one first: powers of a unit vector's entries would leave the linear term alone.
    """

    keyed = True

    def __init__(self, dim: int, seed: int, config: PolyProtectConfig) -> None:
        super().__init__(dim, seed)
        if config.overlap >= config.terms:
            raise UserError(f"protection.overlap: expected less than terms ({config.terms}), got {config.overlap}")
        self.config = config

    def probe(self, templates: Tensor, keys: Tensor) -> Tensor:
        m = self.config.terms
        scaled = templates * math.sqrt(self.dim)
        lacking = -(self.dim - m) % (m - self.config.overlap)
        runs = F.pad(scaled, (0, lacking)).unfold(1, m, m - self.config.overlap)  # the last run ends in zeros
        found, place = keys.unique(return_inverse=True)
        secrets = [self._secret(key) for key in found.tolist()]
        coefficients = torch.stack([c for c, _ in secrets]).to(scaled)[place][:, None]
        exponents = torch.stack([e for _, e in secrets]).to(scaled.device)[place]
        powers = torch.stack([runs**e for e in range(1, m + 1)], -1)  # (N, R, m, m): entry, exponent
        chosen = powers.gather(3, (exponents - 1)[:, None, :, None].expand(-1, runs.shape[1], -1, 1))[..., 0]
        return (coefficients * chosen).sum(2)

    def negative_log_likelihood(self, templates: Tensor, stored: Tensor, keys: Tensor) -> Tensor:
        typical = stored.square().mean(1, keepdim=True).sqrt()
        return _gaussian((self.probe(templates, keys) - stored) / typical, SLACK)

    def _secret(self, key: int) -> tuple[Tensor, Tensor]:
        """Coefficients and exponents ``(terms,)`` of a key."""
        m, reach, rng = self.config.terms, self.config.reach, generator(self.seed, "polyprotect", key)
        size = torch.randint(1, reach + 1, (m,), generator=rng)
        sign = 2 * torch.randint(0, 2, (m,), generator=rng) - 1
        return (size * sign).float(), torch.randperm(m, generator=rng) + 1


class MLPHash(Linear):
    """Signs of ``W_L tanh(... tanh(W_1 v))`` with orthonormal weights of each key; our reading of the activation."""

    keyed = True
    bits = 1.0

    def __init__(self, dim: int, seed: int, config: MLPHashConfig) -> None:
        super().__init__(dim, seed)
        self.config = config

    def probe(self, templates: Tensor, keys: Tensor) -> Tensor:
        return _signs(self._answer(templates, keys))

    def negative_log_likelihood(self, templates: Tensor, stored: Tensor, keys: Tensor) -> Tensor:
        answer = self._answer(templates, keys)
        return _bits(answer / answer.detach().square().mean(1, keepdim=True).sqrt(), stored)

    def _answer(self, templates: Tensor, keys: Tensor) -> Tensor:
        x = templates * math.sqrt(self.dim)
        for layer in range(self.config.layers):
            x = self.applied(x, keys, f"mlp-hash-{layer}")
            if layer + 1 < self.config.layers:
                x = (self.config.steepness * x).tanh()
        return x


def make_scheme(config: Protection, dim: int, seed: int) -> Scheme:
    """The scheme for templates of ``dim`` entries; its public secrets come from ``seed``.

    Raises:
        UserError: settings that do not go together.
    """
    match config:
        case NoProtection():
            return Plain(dim, seed)
        case NoiseConfig():
            return Noisy(dim, seed, config)
        case QuantiseConfig():
            return Quantised(dim, seed, config)
        case PartialConfig():
            return Partial(dim, seed, config)
        case ProjectionConfig():
            return Projected(dim, seed, config)
        case PolyProtectConfig():
            return PolyProtect(dim, seed, config)
        case MLPHashConfig():
            return MLPHash(dim, seed, config)


def cosines(scheme: Scheme, probes: Tensor, stored: Tensor, keys: Tensor) -> Tensor:
    """Every probe against every stored template: ``(N, P)`` cosines.

    Args:
        probes: ``(N, dim)`` templates of photos. stored: ``(P, D')``. keys: ``(P,)``, those of what is stored: a probe
            is transformed with the secret of whom it claims to be.
    """
    kept = F.normalize(stored, dim=1)
    if not scheme.keyed:
        return F.normalize(scheme.probe(probes, keys[:1].expand(len(probes))), dim=1) @ kept.T
    return torch.stack([F.normalize(scheme.probe(probes, key.expand(len(probes))), dim=1) @ own
                        for key, own in zip(keys, kept, strict=True)], 1)


def _signs(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


def _gaussian(error: Tensor, std: float) -> Tensor:
    return error.square().sum(1) / (2 * std**2)


def _bits(x: Tensor, signs: Tensor) -> Tensor:
    return F.softplus(-BIT_SHARPNESS * signs * x).sum(1)
