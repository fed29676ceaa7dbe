"""The adversary's own recogniser, trained on public photos: where the attacked one gives no gradients.

Who can embed photos of their own (transfer) trains an imitation of the attacked recogniser. Who cannot (scores) has
only the public people's names: photos of one person attract, of others repel (SupCon, Khosla et al. 2020,
arXiv:2004.11362).
"""

from __future__ import annotations

import torch
from pytorch_metric_learning.losses import SupConLoss
from torch import Tensor, nn

from latentprint.data.base import ImageSet
from latentprint.engine.device import Precision, autocast, lay_out
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import derive, step_generator
from latentprint.errors import UserError
from latentprint.imitation import PEOPLE, TEMPERATURE, Imitation, Pairs, learn, photo_views, train_imitation
from latentprint.models.recognisers import EMBEDDING_DIM
from latentprint.template.recogniser import Embedder

NAME = "surrogate"


def train_surrogate(public: ImageSet, targets: Tensor | None, steps: int, run: RunDir, seed: int,
                    precision: Precision, device: torch.device, save_every: int, name: str = NAME,
                    architecture: str = "iresnet", mirrored: bool = False) -> Embedder:
    """A recogniser of the adversary's own, or the one of the checkpoint.

    Args:
        targets: ``(N, D)`` the attacked recogniser's embeddings of the public photos; None without access to them.
        name: of the training phase. architecture: a key of ``RECOGNISERS``.
        mirrored: an imitation learns from mirrored photos as well.

    Raises:
        UserError: public photos of one person alone. RunFailed: training broke down.
    """
    if public.n_classes < 2:
        raise UserError("attack.surrogate: a recogniser cannot be trained on public photos of one person")
    if targets is not None:
        network = train_imitation(public, targets, steps, run, name, seed=seed, precision=precision, device=device,
                                  save_every=save_every, architecture=architecture, mirrored=mirrored)
    else:
        network = _by_names(public, steps, run, seed, precision, device, save_every)
    return Embedder(network, nn.Identity(), network.dim, name, architecture)


def _by_names(public: ImageSet, steps: int, run: RunDir, seed: int, precision: Precision, device: torch.device,
              save_every: int) -> Imitation:
    torch.manual_seed(derive(seed, NAME))
    network = Imitation(EMBEDDING_DIM)
    lay_out(network, device).train().requires_grad_(True)
    pairs, alike = Pairs(public.labels), SupConLoss(TEMPERATURE)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        rng = step_generator(seed, NAME, step)
        index = pairs.draw(PEOPLE, rng)
        with autocast(device, precision):
            embedded = network.raw(photo_views(public.floats(index).to(device), rng))
        return alike(embedded.float(), public.labels[index].to(device)), {}

    learn(network, NAME, loss_at, steps, run, save_every)
    return network
