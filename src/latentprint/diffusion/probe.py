"""What reference attention looks at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from latentprint.diffusion.prior import TRAIN_STEPS
from latentprint.diffusion.scene import Scene
from latentprint.diffusion.swap import Swapper


@torch.no_grad()
def attention_entropy(swapper: Swapper, embedding: Tensor, scene: Scene) -> float:
    """Mean entropy of reference attention over the M identity tokens, as a share of log M, at pure noise.

    1 means that every position reads all tokens alike, 0 that each reads one. Attribute tokens are left out and
    the weights renormalised over the identity tokens. With a single token there is nothing to choose from: NaN.
    """
    prior = swapper.prior
    if prior.n_identity == 1:
        return float("nan")
    found: list[Tensor] = []

    def record(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        hidden = arguments[0] if arguments else keywords["hidden_states"]
        found.append(_entropy(module, hidden, keywords["encoder_hidden_states"], prior.n_identity))

    hooks = [module.register_forward_pre_hook(record, with_kwargs=True)
             for name, module in prior.unet.named_modules() if name.endswith("attn2")]
    try:
        last = torch.full((len(embedding),), TRAIN_STEPS - 1, device=embedding.device)
        noise = torch.randn(scene.latent.shape, generator=torch.Generator().manual_seed(0)).to(embedding.device)
        prior(noise, last, scene.masked, scene.keep, prior.tokens(embedding, scene.seen))
    finally:
        for hook in hooks:
            hook.remove()
    return float(torch.stack(found).mean())


def _entropy(attention: Any, hidden: Tensor, tokens: Tensor, n_identity: int) -> Tensor:
    heads = attention.heads
    query, key = attention.to_q(hidden).float(), attention.to_k(tokens[:, :n_identity]).float()
    query, key = (x.view(len(x), -1, heads, x.shape[-1] // heads).transpose(1, 2) for x in (query, key))
    weights = (query @ key.transpose(2, 3) * attention.scale).softmax(-1)
    return torch.special.entr(weights).sum(-1).mean() / torch.log(torch.tensor(float(n_identity)))
