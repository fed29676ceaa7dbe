"""Estimates of the class-conditional entropy of features that an encoder can be trained to lower, relative to noise."""

from latentprint.surrogates.base import Penalty, Surrogate
from latentprint.surrogates.gated import GatedSurrogate, Gates
from latentprint.surrogates.gmm import GMMSurrogate
from latentprint.surrogates.kmeans import KMeansSurrogate
from latentprint.surrogates.learned import Learned
from latentprint.surrogates.slot import SlotSurrogate
from latentprint.surrogates.thresholds import Hinge, Threshold, learning_rate_scale

#: By the names that settings use.
SURROGATES: dict[str, type[Surrogate]] = {
    "kmeans": KMeansSurrogate, "gmm": GMMSurrogate, "slot": SlotSurrogate, "gated": GatedSurrogate,
}  # fmt: skip

__all__ = [
    "SURROGATES",
    "GMMSurrogate",
    "GatedSurrogate",
    "Gates",
    "Hinge",
    "KMeansSurrogate",
    "Learned",
    "Penalty",
    "SlotSurrogate",
    "Surrogate",
    "Threshold",
    "learning_rate_scale",
]
