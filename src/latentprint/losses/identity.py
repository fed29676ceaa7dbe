"""Losses on identity embeddings: ``(B, D)`` to ``(B,)``. A recogniser's embeddings are unit vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def identity_cosine(embedding: Tensor, identity: Tensor) -> Tensor:
    """``1 - cos(F(x_hat), e_id)``: is this the person it should be?

    Args:
        embedding: ``(B, D)`` the teacher's embedding of the generated image.
        identity: ``(B, D)`` the embedding that conditioned the prior.

    Returns:
        ``(B,)`` in [0, 2].

    Source: notes, equation 4.5; Deng et al. 2019, ArcFace (arXiv:1801.07698), for the embedding.
    """
    return 1 - F.cosine_similarity(embedding, identity, dim=1)


def contrastive_identity(
    embedding: Tensor,
    identity: Tensor,
    negatives: Tensor,
    margin: float = 0.4,
    own: Tensor | None = None,
) -> Tensor:
    """``max(0, m + max_neg cos(F(x_hat), e_neg) - cos(F(x_hat), e_id))``: nearer to its own than to others.

    Args:
        embedding: ``(B, D)`` the teacher's embedding of the generated image.
        identity: ``(B, D)`` the embedding that conditioned the prior.
        negatives: ``(K, D)`` embeddings of other classes, the same for the whole batch.
        margin: cosine by which the own identity must lead; the notes ask for 0.3 to 0.5.
        own: ``(B,)`` int64, the row of ``negatives`` that is the sample's own class and does not count, so
            that the whole table of label embeddings can be given. None when no row is.

    Returns:
        ``(B,)`` in [0, m + 2]; 0 where there is no other class. Gradients reach all three embeddings: detach
        those that should stand still.

    Source: notes, loss B2.
    """
    to_others = F.normalize(embedding, dim=1) @ F.normalize(negatives, dim=1).T
    if own is not None:
        to_others = to_others.scatter(1, own[:, None], float("-inf"))
    return F.relu(margin + to_others.amax(1) - F.cosine_similarity(embedding, identity, dim=1))


def info_nce(embedding: Tensor, positive: Tensor, negatives: Tensor, temperature: float = 0.1,
             excluded: Tensor | None = None) -> Tensor:
    """``-log(exp(s+ / tau) / (exp(s+ / tau) + sum_i exp(s_i / tau)))`` with cosines s: nearest to its own among many.

    Args:
        embedding: ``(B, D)`` of the generated image.
        positive: ``(B, D)``, what it should be like.
        negatives: ``(K, D)`` for the whole batch, or ``(B, K, D)``.
        temperature: tau, above 0; the notes advise 0.05 to 0.2.
        excluded: ``(B, K)`` bool, negatives that are of the positive's own identity and do not count.

    Returns:
        ``(B,)`` in [0, inf); 0 where every negative is excluded. Its gradient does vanish where the positive leads by
        many temperatures, whatever the notes say.

    Source: van den Oord et al. 2018 (arXiv:1807.03748), equation 4; the notes on template losses (seed 002, section 2).
    """
    unit = F.normalize(embedding, dim=1)
    own = (unit * F.normalize(positive, dim=1)).sum(1, keepdim=True)
    others = F.normalize(negatives, dim=-1)
    others = unit @ others.T if others.ndim == 2 else torch.bmm(others, unit[:, :, None])[:, :, 0]
    if excluded is not None:
        others = others.masked_fill(excluded, float("-inf"))
    logits = torch.cat([own, others], 1) / temperature
    return logits.logsumexp(1) - logits[:, 0]


def align(label: Tensor, teacher: Tensor) -> Tensor:
    """``||e_label - e_teacher||^2``, **summed** over dimensions: 2 - 2 cos for unit vectors.

    The notes' snippet takes the mean over 512 dimensions, at most 0.0078 for unit vectors, so that its bound
    of 0.1 always held; their formula is the sum, and so is this.

    Args:
        label, teacher: ``(B, D)``.

    Returns:
        ``(B,)`` in [0, 4] for unit vectors.

    Source: notes, alignment loss of stage 1.
    """
    return (label - teacher).square().sum(1)


def embedding_norm(embedding: Tensor) -> Tensor:
    """``(||e|| - 1)^2``: the prior was trained on unit vectors only. ``(B, D)`` to ``(B,)`` in [0, inf).

    Source: notes, embedding-norm loss of stage 1.
    """
    return (embedding.norm(dim=1) - 1).square()


def diversity_hinge(embedding: Tensor, y: Tensor, real_variance: float) -> tuple[Tensor, Tensor]:
    """``max(0, v_real - v_y)``, with ``v_y`` the variance of ``F(x_hat)`` within a class of the batch.

    The notes' ``-Var`` has no lower bound and would push the images of a person apart for ever; the hinge
    stops at the spread of real photos. The variance is the unbiased one, summed over dimensions.

    Args:
        embedding: ``(B, D)`` the teacher's embeddings of the generated images.
        y: ``(B,)`` int64 their classes.
        real_variance: the same variance over real public photos of one person, averaged over people.

    Returns:
        The loss, ``()`` in [0, real_variance], averaged over the classes that occur at least twice in the
        batch (0 if none does), and their mean variance, ``()``, to log.

    Source: notes, loss C2.
    """
    same = (y[:, None] == y[None, :]).to(embedding)
    count = same.sum(1)
    deviation = embedding - same @ embedding / count[:, None]
    # Each image stands for 1 / count of its class, so that the sum over images is a sum over classes.
    variance = same @ deviation.square().sum(1) / (count - 1).clamp_min(1)
    share = torch.where(count > 1, 1 / count, 0.0)
    share = share / share.sum().clamp_min(1e-12)
    return (share * F.relu(real_variance - variance)).sum(), (share * variance).sum()
