"""Which baselines there are, and the few numbers that are theirs alone.

All else (views a picture, batch, DDIM steps, pictures a class) is the attack's: arms differ in the method alone.
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from latentprint.config import Config

BaselineName = Literal["mi-face", "art-mi-face", "embedding-search", "ppa", "direct", "guidance"]

#: A baseline's key among the arms of report.json.
ARM_KEYS: dict[str, str] = {name: name.replace("-", "_") for name in get_args(BaselineName)}


class MIFaceConfig(Config):
    """Pixel gradient ascent. Step and blur are the best of 0.05, 0.1, 0.3 and 0, 1 by the teacher, on people who are in
    no audit."""

    step: float = Field(0.1, gt=0, le=1, description="how far a step moves the pixel with the largest gradient")
    smoothing: float = Field(0.0, ge=0, le=5, description="standard deviation in pixels of a blur after every step; "
                                                          "0: none")


class ArtMIFaceConfig(Config):
    """MI-Face of the Adversarial Robustness Toolbox, as it is set when nobody sets it."""

    learning_rate: float = Field(0.1, gt=0, description="on the gradient of the class's probability")
    threshold: float = Field(0.99, ge=0, description="a descent goes on while one minus the probability is below it")
    window: int = Field(100, ge=1, description="... or not below the largest of so many steps before")


class EmbeddingSearchConfig(Config):
    """Search for an embedding a class through the frozen prior.

    The rate is the best of 0.005, 0.02 and 0.05 by the teacher, on people who are in no audit.
    """

    lr: float = Field(2e-2, gt=0, description="peak learning rate; entries are of order one")
    start: Literal["mapped", "pseudo"] = Field("mapped", description="where embeddings start: as the attack's labels "
                                                                     "do, or at the mean of the paired photos")


class PPAConfig(Config):
    """Plug & Play Attacks. The paper has a rate of 0.005 in another space, and 100 views in the last selection; the
    rate here is the one that suits the embedding search from the same kind of start."""

    candidates: int = Field(500, ge=1, description="public embeddings tried at first")
    kept: int = Field(4, ge=1, description="of them, how many a class starts from")
    views: int = Field(8, ge=1, description="random views over which a selection averages the victim's confidence")
    lr: float = Field(5e-2, gt=0, description="peak learning rate; entries are of order one")


class GuidanceConfig(Config):
    """Classifier-guided sampling.

    The paper guides an unconditional model by 10 on the noisy picture's gradient; here 10 was the best of 1, 3, 10, 30
    and 100 by the teacher, on people who are in no audit.
    """

    scale: float = Field(10.0, ge=0, description="on the gradient of the victim's log-probability; 0: no guidance")


class BaselineSettings(Config):
    """What is not shared with the attack; the baseline ``direct`` has nothing of its own."""

    mi_face: MIFaceConfig = Field(MIFaceConfig(), description="pixel gradient ascent")
    art_mi_face: ArtMIFaceConfig = Field(ArtMIFaceConfig(), description="the same by an outside library")
    embedding_search: EmbeddingSearchConfig = Field(EmbeddingSearchConfig(), description="search with a frozen prior")
    ppa: PPAConfig = Field(PPAConfig(), description="Plug & Play Attacks")
    guidance: GuidanceConfig = Field(GuidanceConfig(), description="classifier-guided sampling")
