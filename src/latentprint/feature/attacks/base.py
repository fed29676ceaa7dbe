"""What all attacks on features are given, and how they ask the victim: always as it is defended.

Noise is averaged away and masks are seen through as far as the protocol's R messages of one image allow: an attack
learns from R fresh messages of each known image, joined by `combined` as those under attack will be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.engine.device import Precision
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import generator, step_generator
from latentprint.errors import UserError
from latentprint.feature.attacks.settings import AttackSettings
from latentprint.feature.victim import SplitVictim
from latentprint.framer import Framer
from latentprint.models.framing import FramingName
from latentprint.victim import QueryCounter

#: Images ``(B, 3, H, W)`` in [0, 1] to feature maps ``(B, C_l, H_l, W_l)`` of three depths, shallow first.
Extractor = Callable[[Tensor], Sequence[Tensor]]

#: Images at a time where nothing is learned.
ASK_BATCH = 256
#: Known images on which an attack looks at how the victim behaves.
PROBE = 32
#: Messages of a defence that never varies are kept up to so many bytes.
KEEP_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Harness:
    """The same for every attack on one victim with one set of known images.

    Attributes:
        settings: of all attacks.
        run: where training loops log and checkpoint. Attacks share what they train in common (the decoder), so a
            folder belongs to one victim and one set of known images.
        seed: of everything that is drawn.
        repeats: R, the messages of each image under attack.
        save_every: in steps.
        assets: a folder of networks that ``latentprint pretrain`` wrote; None: those of the package.
        teacher: the asset in whose space the prior takes identities. teacher_framing: how the framer frames it.
        framer: None: recognisers are given whole images.
        extractor: what the perceptual attack measures in, in place of what its settings say.

    Raises:
        ValueError: R below 1.
    """

    settings: AttackSettings
    run: RunDir
    seed: int
    repeats: int = 1
    precision: Precision = "fp32"
    save_every: int = 100
    assets: Path | None = None
    teacher: str = "teacher"
    teacher_framing: FramingName | None = None
    framer: Framer | None = None
    extractor: Extractor | None = None

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1 message an image, got {self.repeats}")

    def joined(self, sent: Tensor) -> Tensor:
        """`combined` messages under attack.

        Raises:
            ValueError: as many messages of an image as the attack was not prepared for.
        """
        if sent.shape[1] != self.repeats:
            raise ValueError(f"the attack was prepared for {self.repeats} messages an image, got {sent.shape[1]}")
        return combined(sent)


class Spent:
    """Queries since it was made, as part of a checkpoint: a resumed attack counts as an unbroken one."""

    def __init__(self, queries: QueryCounter) -> None:
        self.queries, self.start = queries, replace(queries)

    def state_dict(self) -> dict[str, int]:
        return {"forward": self.queries.forward - self.start.forward,
                "backward": self.queries.backward - self.start.backward}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.queries.forward = self.start.forward + state_dict["forward"]
        self.queries.backward = self.start.backward + state_dict["backward"]


def combined(sent: Tensor) -> Tensor:
    """The R messages of each image as one, ``(N, R, *F)`` to ``(N, *F)``.

    The mean over the messages in which an entry is not exactly 0. Where nothing is erased it is the plain mean, which
    lowers the variance of independent noise R-fold; an erased entry is read from the messages that hold it.
    """
    return sent.sum(1) / (sent != 0).sum(1).clamp_min(1)


@torch.no_grad()
def messages(victim: SplitVictim, x: Tensor, repeats: int, rng: torch.Generator | None) -> Tensor:
    """What the victim sends for images ``(B, 3, H, W)``, each asked R times: ``(B, R, *F)``."""
    return torch.stack([victim.release(x, rng) for _ in range(repeats)], 1)


def clean_features(victim: SplitVictim, x: Tensor) -> Tensor:
    """Features ``(B, *F)`` before any defence, as the holder of the edge network computes them: counted as queries."""
    n, queries = len(x), victim.queries
    queries.forward += n
    features = victim.features(x)
    if features.requires_grad:
        features.register_hook(lambda _: queries.count_backward(n))
    return features


def sends_alike(victim: SplitVictim, x: Tensor, seed: int) -> bool:
    """Whether each image is always sent the same way, whatever is drawn and whichever images are beside it.

    Found by asking: three times, with other random numbers, in another order, and with half of the images.
    """
    first, again, some = (messages(victim, images, 1, generator(seed, "alike", i))[:, 0]
                          for i, images in enumerate((x, x.flip(0), x[: (len(x) + 1) // 2])))
    slack = 1e-5 * float(first.abs().amax())  # a batch of another size rounds otherwise
    return torch.allclose(first, again.flip(0), 1e-4, slack) and torch.allclose(first[: len(some)], some, 1e-4, slack)


@dataclass(frozen=True)
class Batch:
    """Known images at ``index`` ``(B,)``: ``(B, 3, H, W)`` in [0, 1], and what is ``sent`` for them ``(B, *F)``."""

    index: Tensor
    images: Tensor
    sent: Tensor


class Source:
    """Known images and what the victim sends for them, a batch a step, in another order every epoch.

    Messages are asked for afresh at every step, so that noise and masks are those of the defence; where it never
    varies each image is asked once.

    Args:
        name: of the training, which its random numbers depend on.
        batch: images a step; the images that do not fill a batch wait for another epoch.

    Raises:
        UserError: no known images.
        ValueError: the victim is in training mode.
    """

    def __init__(self, harness: Harness, victim: SplitVictim, known: ImageSet, name: str, batch: int) -> None:
        require_ready(victim, known)
        self.harness, self.victim, self.known, self.name = harness, victim, known, name
        self.batch = min(batch, len(known))
        self._kept: Tensor | None = None
        self._looked = self._paid = False

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self.known) // self.batch

    def __call__(self, step: int) -> Batch:
        epoch, place = divmod(step, len(self))
        order = torch.randperm(len(self.known), generator=step_generator(self.harness.seed, self.name, epoch))
        index = order[place * self.batch :][: self.batch]
        return self._asked(index, step_generator(self.harness.seed, f"{self.name}-messages", step))

    def sample(self) -> Batch:
        """A batch to measure scales on, the same in every process."""
        order = torch.randperm(len(self.known), generator=generator(self.harness.seed, self.name, "sample"))
        return self._asked(order[:ASK_BATCH], generator(self.harness.seed, self.name, "sample-messages"))

    def _asked(self, index: Tensor, rng: torch.Generator) -> Batch:
        x = self.known.floats(index).to(self.victim.device)
        if not self._looked:
            self._look()
        if self._kept is not None:
            return Batch(index, x, self._kept[index].to(x.device))
        return Batch(index, x, combined(messages(self.victim, x, self.harness.repeats, rng)))

    def _look(self) -> None:
        """Find out whether messages vary, and keep them all where they do not; a resumed training pays for it once."""
        queries, before = self.victim.queries, replace(self.victim.queries)
        if sends_alike(self.victim, self.known.floats(slice(PROBE)).to(self.victim.device), self.harness.seed):
            self._kept = self._all()
        if self._paid:
            queries.load_state_dict(before.state_dict())
        self._looked = self._paid = True

    def state_dict(self) -> dict[str, bool]:
        return {"paid": self._paid}

    def load_state_dict(self, state_dict: dict[str, bool]) -> None:
        self._paid = state_dict["paid"]

    def _all(self) -> Tensor | None:
        """Everything that is sent, on the CPU; None where it is too much to keep."""
        parts: list[Tensor] = []
        for part in torch.arange(len(self.known)).split(ASK_BATCH):
            x = self.known.floats(part).to(self.victim.device)
            parts.append(messages(self.victim, x, 1, generator(self.harness.seed, "all", int(part[0])))[:, 0].cpu())
            if parts[0].nbytes * (len(self.known) / len(parts[0])) > KEEP_BYTES:
                return None
        return torch.cat(parts)


def require_ready(victim: SplitVictim, known: ImageSet) -> None:
    """Raises UserError for no known images, ValueError for a victim in training mode (its norms would still move)."""
    if not len(known):
        raise UserError(f"{known.source}: no known images to learn the attack from")
    if victim.training:
        raise ValueError(f"{victim.name} is in training mode; call eval() before it is attacked")


def image_size(known: ImageSet) -> tuple[int, int]:
    """Height and width in pixels."""
    return int(known.images.shape[2]), int(known.images.shape[3])


def batches(n: int, size: int) -> Iterator[Tensor]:
    """Indices ``0 .. n - 1`` in pieces of at most ``size``."""
    yield from torch.arange(n).split(size)
