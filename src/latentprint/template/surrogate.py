"""The adversary's own recogniser, trained on the public people: where the attacked one gives no gradients."""

from __future__ import annotations

import torch
from pytorch_metric_learning.losses import CosFaceLoss
from torch import Tensor, nn

from latentprint.data.base import ImageSet
from latentprint.engine.device import Precision, autocast, lay_out
from latentprint.engine.loop import Loop, warm_cosine
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import derive, step_generator
from latentprint.errors import UserError
from latentprint.models.recognisers import EMBEDDING_DIM, build_recogniser
from latentprint.template.recogniser import Embedder
from latentprint.template.train import viewed

#: Photos a step, margin of the cosine and scale of the logits; the margin grows over the first third.
BATCH, MARGIN, SCALE, GROWTH = 64, 0.3, 32.0, 1 / 3
NAME = "surrogate"


def train_surrogate(public: ImageSet, steps: int, run: RunDir, seed: int, precision: Precision, device: torch.device,
                    save_every: int) -> Embedder:
    """A residual recogniser with a cosine margin (CosFace), or the one of the checkpoint.

    Raises:
        UserError: public photos of one person alone. RunFailed: training broke down.
    """
    if public.n_classes < 2:
        raise UserError("attack.surrogate: a recogniser cannot be trained on public photos of one person")
    torch.manual_seed(derive(seed, NAME))
    network = lay_out(build_recogniser("iresnet"), device).train().requires_grad_(True)
    margin = CosFaceLoss(public.n_classes, EMBEDDING_DIM, margin=MARGIN, scale=SCALE).to(device)
    optimizer = torch.optim.AdamW([*network.parameters(), *margin.parameters()], 2e-3, weight_decay=5e-2)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        rng = step_generator(seed, NAME, step)
        index = torch.randint(len(public), (BATCH,), generator=rng)
        margin.margin = MARGIN * min(1.0, step / max(1.0, GROWTH * steps))
        images = viewed(public.floats(index).to(device), 2.0, rng).clamp(0, 1)
        with autocast(device, precision):
            embedded = network.raw(images)  # type: ignore[operator]  # of every recogniser
        return margin(embedded.float(), public.labels[index].to(device)), {}

    Loop(run, NAME, optimizer, {"network": network, "margin": margin}, steps, warm_cosine(steps, min(100, steps // 10)),
         clip_norm=5.0, save_every=save_every).fit(loss_at)
    return Embedder(network, nn.Identity(), EMBEDDING_DIM, NAME, "iresnet")
