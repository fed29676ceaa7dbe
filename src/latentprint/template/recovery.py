"""From what is stored back to the likeliest template, by an adversary who knows the scheme and the keys.

Templates of public faces say where templates lie: a Gaussian in the coordinates in which theirs are white. The
adversary minimises ``-log p(stored | template) - log p(template)`` by gradient descent, everybody's at once. For noise
and projections this is the conditional mean of a Gaussian up to the unit length, for bits a relaxation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from latentprint.template.defenses import Plain, Scheme

#: Share of the mean variance that every direction keeps: no direction is impossible.
FLOOR = 1e-2
#: Temperature of the likelihood at the start of the descent; 1 from half-way on. High powers have many local minima.
HOT = 1e2


@dataclass(frozen=True)
class TemplatePrior:
    """Where templates lie: ``mean + w @ axes`` with w standard normal.

    Attributes:
        mean: ``(D,)``. axes: ``(D, D)``, row i a principal direction times its standard deviation.
    """

    mean: Tensor
    axes: Tensor

    @classmethod
    def of(cls, templates: Tensor) -> TemplatePrior:
        """From public templates ``(N, D)`` of length 1."""
        mean = templates.mean(0)
        centred = (templates - mean).double()
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(templates))
        floor = FLOOR * float(values.clamp_min(0).mean())
        return cls(mean, (vectors * values.clamp_min(floor).sqrt()).T.to(templates))

    def template(self, w: Tensor) -> Tensor:
        """``(N, D)`` coordinates to templates, whose length is about 1."""
        return self.mean + w @ self.axes


def recover(scheme: Scheme, stored: Tensor, keys: Tensor, prior: TemplatePrior, steps: int = 300,
            lr: float = 0.1) -> Tensor:
    """``(N, D)`` unit templates, the likeliest to have given what is stored ``(N, D')``."""
    if isinstance(scheme, Plain):
        return F.normalize(stored, dim=1)
    w = torch.zeros(len(stored), scheme.dim, requires_grad=True)
    adam = torch.optim.Adam([w], lr)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps, lr / 100)
    for step in range(steps):
        heat = HOT ** max(0.0, 1 - 2 * step / steps)
        loss = (scheme.negative_log_likelihood(prior.template(w), stored, keys) / heat + w.square().sum(1) / 2).sum()
        (w.grad,) = torch.autograd.grad(loss, w)
        adam.step()
        decay.step()
    return F.normalize(prior.template(w.detach()), dim=1)
