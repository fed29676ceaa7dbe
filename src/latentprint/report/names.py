"""What metrics, arms and grades are called on the page, and how each metric is written."""

from __future__ import annotations

from dataclasses import dataclass

from latentprint.report.values import Measured, percent, plain


@dataclass(frozen=True)
class Metric:
    """How a metric is shown. ``better``: whether "more" or "less" of it is closer to the person."""

    label: str
    is_share: bool = False
    better: str = ""
    help: str = ""

    @property
    def in_text(self) -> str:
        """The label within a sentence: "identity match", but "SAR type II"."""
        return self.label[:1].lower() + self.label[1:] if self.label[1:2].islower() else self.label

    def show(self, value: float | None, sign: bool = True) -> str:
        """The value in the metric's unit: a percentage for shares, else a plain number."""
        return percent(value, sign) if self.is_share else plain(value)

    def interval(self, measured: Measured, joint: str = "–") -> str:
        """The 95% interval in the metric's unit, or an empty string."""
        if measured.bounds is None:
            return ""
        low, high = measured.bounds
        joint = " to " if low < 0 else joint  # "-3–12%" reads as a riddle
        return f"{self.show(low, sign=False)}{joint}{self.show(high)}"


METRICS = {
    "identity_match_rate": Metric("Identity match", True, "more",
                                  "share of images that the judge accepts as the right person at FMR 1e-3"),
    "sar_type2_judge": Metric("Recovery of the face", True, "more",
                              "share of reconstructions that the independent judge accepts as the person against "
                              "another photo, at FMR 1e-3"),
    "sar_type2": Metric("SAR type II", True, "more",
                        "share of reconstructions accepted against another photo of the person at FMR 1e-3, by the "
                        "attacked recogniser unless another is named"),
    "sar_type1": Metric("SAR type I", True, "more",
                        "share of reconstructions accepted against the template that leaked, at FMR 1e-3, by the "
                        "attacked recogniser unless another is named"),
    "template_similarity": Metric("Similarity", False, "more", "mean cosine to other photos of the person"),
    "variance_recovered": Metric("Variance recovered", True, "more",
                                 "share of the pixels' variance that came back: 1 - MSE / MSE of the mean image"),
    "reidentification_rate": Metric("Re-identification", True, "more", "rank-1 share in a gallery"),
    "top1": Metric("Top-1", True, "more", "share of images that the evaluators name right"),
    "top5": Metric("Top-5", True, "more", "share with the right name among the evaluators' first five"),
    "mean_confidence": Metric("Confidence", True, "more",
                              "the evaluators' mean probability of the right name"),
    "similarity_judge": Metric("Similarity, judge", False, "more",
                               "mean cosine to real photos of the person"),
    "similarity_teacher": Metric("Similarity, teacher", False, "more",
                                 "the same by the recogniser that the attack optimised: flattering"),
    "feature_distance": Metric("Feature distance", False, "less",
                               "L2 to the nearest private image of the person in the evaluator's features"),
    "frechet": Metric("Fréchet distance", False, "less", "in the named extractor, not FID; n counts pictures, and "
                      "only distances of equal n compare"),
    "identity_match_rate_fmr_0.01": Metric("Identity match, FMR 0.01", True, "more",
                                           "the same at the looser threshold of one false accept in a hundred"),
    "lpips": Metric("LPIPS", False, "less", "perceptual distance to the original"),
    "ssim": Metric("SSIM", False, "more", "structural similarity to the original"),
    "psnr": Metric("PSNR", False, "more", "peak signal-to-noise ratio to the original, dB, per image"),
    "mse": Metric("MSE", False, "less", "mean squared error to the original, range [0, 1]"),
    "attribute_error": Metric("Attribute error", False, "less", "how far pose, expression and light are from those of "
                              "the attribute image, as the attribute network reads them"),
    "perceptual": Metric("Perceptual distance", False, "less",
                         "to the attribute image, in the attribute network's features"),
    "diversity": Metric("Diversity", False, "", "spread among the images of one person"),
}


@dataclass(frozen=True)
class Arm:
    """A row of the comparison: what produced the images."""

    label: str
    hint: str = ""


ARMS = {
    "floor": Arm("Floor", "the prior without the victim"),
    "pseudo_label": Arm("Pseudo-label baseline", "no optimisation"),
    "mapped": Arm("Map alone", "class directions read by a learned map, no optimisation"),
    "mi_face": Arm("MI-Face", "gradient ascent on pixels, no prior"),
    "art_mi_face": Arm("MI-Face of ART", "an outside implementation, as it is set by itself"),
    "embedding_search": Arm("Embedding search", "frozen prior, the victim's loss alone"),
    "ppa": Arm("Plug & Play", "frozen prior, several starts, chosen by the victim"),
    "direct": Arm("Direct fine-tuning", "the label stage alone, from random labels"),
    "guidance": Arm("Guided sampling", "the victim's gradient at every step, nobody's identity"),
    "nearest": Arm("Nearest public face", "no reconstruction"),
    "decoder": Arm("Decoder"),
    "prior": Arm("Diffusion prior"),
    "decoder_refined": Arm("Decoder, refined"),
    "prior_refined": Arm("Diffusion prior, refined"),
    "attack": Arm("Attack", "every image, unselected"),
    "attack_selected": Arm("Attack, selected", "best by the victim's own confidence"),
    "prior_ceiling": Arm("Prior ceiling", "the prior given the true identities"),
    "ceiling": Arm("Ceiling", "real held-out photos"),
}

OF_TEMPLATES = frozenset({"nearest"})
OTHERWISE = {("template", "floor"): "Mean public face", ("template", "ceiling"): "Ceiling: the enrolled photo",
             ("template", "attack"): "Attack: the best of these"}

CHANNELS = {
    "label": "What the classifier's outputs and gradients give away",
    "template": "What a stored face-recognition template gives away",
    "feature": "What split-inference activations give away",
}


def points(share: float) -> str:
    """A difference of shares in percentage points: "3", or "0.4" below one."""
    return percent(share, sign=False)


def metric(name: str) -> Metric:
    """The known metric, or one that shows plain numbers under its own name."""
    return METRICS.get(name) or Metric(title(name))


def arm(name: str, channel: str = "label") -> Arm:
    """The known arm, or one under its own name. Hints of arms that several channels have describe the label channel."""
    known = ARMS.get(name)
    if known is None:
        return Arm(title(name))
    return known if channel == "label" or name in OF_TEMPLATES else Arm(OTHERWISE.get((channel, name), known.label))


def title(name: str) -> str:
    """``some_name`` as "Some name"."""
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]
