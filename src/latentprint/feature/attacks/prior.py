"""Faces: the decoder's picture with its face repainted by the project's diffusion prior.

What is sent is read twice, by networks learned on known images: the decoder makes a picture of it, and a reader tells
the teacher's embedding and the attributes (pose, expression, light). The prior then repaints the face of the picture as
that person in that pose. Optionally the result's latent is moved until the edge network's features are those that were
sent (white box), held near the prior's picture.

The decoder minimises squared error and so draws the mean of all faces that fit; the prior draws one of them. In squared
error this attack is therefore expected to lose against the decoder. Whether it wins where a mean face is nobody (in
identity) is to be measured, by a recogniser other than the teacher that the reader learns from. In a first small trial
(64 faces, 512 features, a decoder of 150 steps) it recovered 65% of the variance against the decoder's 74%, 73% with 40
steps of refinement, and the teacher found the right face among the 64 in 19% and 17% against 5%.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.diffusion.loading import FaceTools, load_tools
from latentprint.diffusion.scene import Scene
from latentprint.diffusion.swap import Swapper
from latentprint.engine.device import autocast, lay_out
from latentprint.engine.loop import Loop, warm_cosine
from latentprint.engine.seeds import derive
from latentprint.feature.attack import FeatureAttack
from latentprint.feature.attacks.base import Harness, Source, Spent, batches, image_size
from latentprint.feature.attacks.decoder import DecoderAttack, decode
from latentprint.feature.attacks.faces import PRIOR_SIZE, FaceReader, usual_hole
from latentprint.feature.attacks.matching import Matching, measure
from latentprint.feature.victim import SplitVictim
from latentprint.losses.identity import identity_cosine
from latentprint.losses.pixel import squared_error
from latentprint.models.answers import embeddings, readings
from latentprint.progress import tracked


class PriorAttack(FeatureAttack):
    """Starts from the decoder attack; the networks are those that ship unless ``tools`` are given.

    Pictures are repainted at 64 pixels and put back at their own size. A picture depends on the seed and its place
    among those under attack, not on its neighbours in a batch.
    """

    name = "prior"
    reader: FaceReader
    hole: Tensor

    def __init__(self, harness: Harness, tools: FaceTools | None = None) -> None:
        self.harness, self.tools, self.start = harness, tools, DecoderAttack(harness)
        self.matching: Matching | None = None

    def fit(self, victim: SplitVictim, known: ImageSet) -> None:
        """Raises UserError where a network is missing, or as the decoder attack."""
        self.tools = self.tools or self._loaded(victim.device)
        self.start.fit(victim, known)
        self.reader = train_reader(self.harness, self.tools, victim, known)
        self.hole = usual_hole(known)
        if self.harness.settings.prior.refine_steps:
            self.matching = measure(victim, known, self.harness.seed)

    def _loaded(self, device: torch.device) -> FaceTools:
        harness = self.harness
        tools = load_tools(harness.assets, device, harness.teacher)
        if harness.framer is not None:
            harness.framer.frame(tools.teacher, harness.teacher, harness.teacher_framing, "teacher_framing")
        return tools

    def run(self, victim: SplitVictim, sent: Tensor) -> Tensor:
        joined = self.harness.joined(sent)
        pictures = decode(self.start.decoder, joined, victim.device).clamp(0, 1)
        seeds = torch.tensor([derive(self.harness.seed, self.name, i) for i in range(len(sent))])
        parts = []
        for part in tracked(list(batches(len(sent), self.harness.settings.prior.batch)), self.name, stage=True):
            near, asked = pictures[part].to(victim.device), joined[part].to(victim.device)
            parts.append(self.repainted(victim, near, asked, seeds[part]).cpu())
        return torch.cat(parts)

    def repainted(self, victim: SplitVictim, pictures: Tensor, joined: Tensor, seeds: Tensor) -> Tensor:
        """The decoder's ``(B, 3, H, W)`` pictures with the prior's faces in their holes."""
        assert self.tools is not None
        swapper, settings = self.tools.swapper, self.harness.settings.prior
        hole = self.hole.to(pictures).expand(len(pictures), -1, -1, -1)
        with torch.no_grad(), autocast(pictures.device, self.harness.precision):
            embedding, attributes = self.reader(joined)
            # The attributes come from the message: a network reads them less well from a blurred picture.
            found = swapper.scene(resized(pictures, (PRIOR_SIZE, PRIOR_SIZE)), hole)
            scene = replace(found, attributes=attributes, seen=swapper.prior.seen(found.image, attributes))
            faces = swapper.ddim(embedding, scene, seeds, settings.ddim_steps, guidance=settings.guidance).float()

        def whole(face: Tensor) -> Tensor:  # what was repainted alone is resized, so that the rest stays sharp
            return (pictures + resized(face - scene.image, (pictures.shape[-2], pictures.shape[-1]))).clamp(0, 1)

        if self.matching is None:
            return whole(faces)
        return self.refined(victim, swapper, scene, faces, joined, whole)

    def refined(self, victim: SplitVictim, swapper: Swapper, scene: Scene, faces: Tensor, joined: Tensor,
                whole: Callable[[Tensor], Tensor]) -> Tensor:
        """Pictures whose latents went from the prior's faces towards the features that were sent."""
        assert self.matching is not None
        settings = self.harness.settings.prior
        with torch.no_grad():
            start = swapper.codec.encode(faces.clamp(0, 1))
        latent = start.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([latent], settings.refine_lr, amsgrad=True)
        for _ in range(settings.refine_steps):
            mismatch = self.matching(victim, whole(swapper.paste(latent, scene)), joined)
            loss = mismatch + settings.stay * (latent - start).square().flatten(1).mean(1)
            (latent.grad,) = torch.autograd.grad(loss.sum(), latent)
            optimizer.step()
        with torch.no_grad():
            return whole(swapper.paste(latent, scene))


def train_reader(harness: Harness, tools: FaceTools, victim: SplitVictim, known: ImageSet) -> FaceReader:
    """Learn who and how on known images: 1 - cos to the teacher's embedding, squared error of the attributes."""
    settings, device = harness.settings.prior, victim.device
    spent, source = Spent(victim.queries), Source(harness, victim, known, "reader", settings.batch)
    at_64 = resized_bytes(known.images, image_size(known))
    identity, look = embeddings(tools.teacher, at_64, "teacher"), readings(tools.swapper.attributes, at_64)
    torch.manual_seed(derive(harness.seed, "reader", "weights"))
    with torch.no_grad():
        shape = tuple(victim.features(known.floats(slice(1)).to(device)).shape[1:])
        reader = FaceReader(shape, identity.shape[1])
    lay_out(reader, device)
    optimizer = torch.optim.AdamW(reader.parameters(), settings.lr, weight_decay=1e-2)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        if step == 0:
            reader.standardise.measure(source.sample().sent)
        batch = source(step)
        with autocast(device, harness.precision):
            embedding, attributes = reader(batch.sent)
        cosine = identity_cosine(embedding.float(), identity[batch.index].to(device)).mean()
        error = squared_error(attributes.float(), look[batch.index].to(device)).mean()
        return cosine + error, {"identity": cosine.detach(), "attributes": error.detach()}

    Loop(harness.run, "reader", optimizer, {"reader": reader, "spent": spent, "source": source},
         settings.encoder_steps, warm_cosine(settings.encoder_steps, 20), save_every=harness.save_every).fit(loss_at)
    frozen: FaceReader = reader.eval().requires_grad_(False)
    return frozen


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """``(B, C, H, W)`` floats at another size, antialiased; as they are where the size is right."""
    if tuple(x.shape[-2:]) == size:
        return x
    return F.interpolate(x, size, mode="bilinear", antialias=True)


def resized_bytes(images: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 ``(N, 3, H, W)`` at the prior's size."""
    if size == (PRIOR_SIZE, PRIOR_SIZE):
        return images
    parts = [resized(part.float(), (PRIOR_SIZE, PRIOR_SIZE)).round().clamp(0, 255).to(torch.uint8)
             for part in images.split(1024)]
    return torch.cat(parts)
