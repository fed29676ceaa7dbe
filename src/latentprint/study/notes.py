"""Every number that the user's notes expect and nobody had measured, as claims (seeds 000, 001, 002 and 004)."""

from __future__ import annotations

from math import inf

from latentprint.study.claims import Claim, Cost, Difference, Level, Matched
from latentprint.study.label_notes import LOSSES, PROGRESSIVE

VISUAL = "perceptual distance, in the packaged network"
#: The studies' trainings are short; what they say of success is said of its beginning.
UNFINISHED = "the studies' trainings end long before pictures succeed"


def _losses(arm: str, low: float, high: float, other: str = "", metric: str = "type2") -> Difference:
    return Difference("template-losses", arm, metric, low, high, other)


TEMPLATES = (
    Claim("002-sigmoid", "002, 5", "a sigmoid weight: success 80.1% instead of 78.5%", "+1 to 2 points",
          _losses("l2 sigmoid", 0.01, 0.02), "SAR type II, early in training"),
    Claim("002-infonce", "002, 5", "InfoNCE in place of L2: 3 to 5 points", "+3 to 5 points",
          _losses("info-nce linear", 0.03, 0.05), "SAR type II, early in training"),
    Claim("002-both", "002, 5", "InfoNCE and a sigmoid: 84.7% instead of 78.5%", "+4 to 7 points",
          _losses("info-nce sigmoid", 0.04, 0.07), "SAR type II, early in training"),
    Claim("002-perceptual", "002, 5", "a perceptual loss changes success by nothing", "0 (+0.3)",
          _losses("info-nce sigmoid perceptual", -0.03, 0.03, "info-nce sigmoid"), "SAR type II, early in training"),
    Claim("002-visual-sigmoid", "002, 2", "a sigmoid: visual quality 6.3 instead of 6.2 of 10", "+0.1",
          _losses("l2 sigmoid", -inf, 0, metric="perceptual"), VISUAL),
    Claim("002-visual-infonce", "002, 2", "InfoNCE: visual quality 6.5 instead of 6.3", "+0.2",
          _losses("info-nce sigmoid", -inf, 0, "l2 sigmoid", "perceptual"), VISUAL),
    Claim("002-visual-perceptual", "002, 5", "a perceptual loss: visual quality 6.8 instead of 6.5", "+0.3",
          _losses("info-nce sigmoid perceptual", -inf, 0, "info-nce sigmoid", "perceptual"), VISUAL),
    Claim("002-cost-infonce", "002, 6", "InfoNCE costs less than 5% a step", "1.05x",
          Cost("template", {"loss": "info-nce random"}, "step_ratio", -inf, 1.05)),
    Claim("002-cost-perceptual", "002, 2", "the perceptual loss costs 10% a step", "1.15x of 1.05x",
          Cost("template", {"loss": "info-nce random, perceptual"}, "step_ratio", 1.05, 1.15,
               {"loss": "info-nce random"})),
    Claim("002-hard", "002, 4", "hard negatives teach more than random ones", "better",
          Difference("template-negatives", "hard", "type2", 0, inf), "SAR type II, early in training"),
    Claim("002-queue", "002, 4", "a queue of the hardest negatives teaches more than random ones", "better",
          Difference("template-negatives", "queue", "type2", 0, inf), "SAR type II, early in training"),
    Claim("002-tau-low", "002, 6", "tau of 0.05 works as 0.1 does", "no difference",
          Difference("template-temperatures", "tau 0.05", "type2", -0.05, 0.05), "SAR type II, early in training"),
    Claim("002-tau-high", "002, 6", "tau of 0.2 works as 0.1 does", "no difference",
          Difference("template-temperatures", "tau 0.2", "type2", -0.05, 0.05), "SAR type II, early in training"),
    Claim("002-slope", "002, 6", "any slope k of 6 to 10 will do", "no difference", why="no study varies the slope"),
    Claim("002-gradient-l2", "002, 3", "L2's gradient vanishes as pictures succeed", "to 0", why=UNFINISHED),
    Claim("002-gradient-infonce", "002, 3", "InfoNCE's gradient does not vanish", "not to 0", why=UNFINISHED),
)


ALWAYS_ON = "lambda 16 with a threshold that is always exceeded, ten people"
GATED, PUBLISHED = ({"surrogate": name, "shape": "cifar10"} for name in ("gated", "published"))


def _regime(metric: str, low: float, high: float, arm: str = "gated 16", other: str = "kmeans 16",
            tolerance: float = 0) -> Difference:
    return Difference("regime", arm, metric, low, high, other, tolerance=tolerance)


SURROGATES = (
    Claim("004-4a", "004, 4", "the clustered surrogate ends at 24.45% accuracy with lambda 16", "24.45%",
          Level("regime", "kmeans 16", "accuracy", 0.2445, 0.2445, tolerance=0.05), ALWAYS_ON),
    Claim("004-4b", "004, 4", "gated attention keeps as much accuracy, 24.80%", "+0.35 points",
          _regime("accuracy", -0.03, 0.03), ALWAYS_ON),
    Claim("004-4c", "004, 4", "gated attention leaks less: MSE 0.0473 instead of 0.0436", "+0.0037",
          _regime("mse", 0, inf), ALWAYS_ON),
    Claim("004-4d", "004, 4", "gated attention leaks less: SSIM 0.4109 instead of 0.4316", "-0.021",
          _regime("ssim", -inf, 0), ALWAYS_ON),
    Claim("004-4e", "004, 4", "gated attention leaks less: PSNR 13.25 instead of 13.60 dB", "-0.35 dB",
          _regime("psnr", -inf, 0), ALWAYS_ON),
    Claim("004-4f", "004, 4", "with a larger lambda gated attention keeps 26%", "+1.2 points",
          _regime("accuracy", 0.012, 0.012, "gated 64", "gated 16", 0.006), ALWAYS_ON),
    Claim("004-4g", "004, 4", "gated attention leaks less than k-means at equal accuracy", "higher MSE",
          Matched("surrogates", "gated", "mse", 0, inf, "kmeans"), "at useful accuracy, mean gap of the curves over "
          "lambda"),
    Claim("004-4h", "004, 4", "a larger lambda leaks less", "higher MSE",
          Difference("surrogates", "gated 16", "mse", 0, inf, "gated 1"), "at useful accuracy"),
    Claim("004-4i", "004, 4", "accuracy holds or rises with lambda", "0 or more",
          Difference("surrogates", "gated 16", "accuracy", -0.01, inf, "gated 1"), "at useful accuracy"),
    Claim("004-3.2a", "004, 3.2", "gated attention trains faster than the loop over clusters", "faster",
          Cost("cem", GATED, "epoch_ratio", -inf, 1.0, PUBLISHED), "time of an epoch over the published loop's"),
    Claim("004-3.2b", "004, 3.2", "gated attention takes less memory than the loop over clusters", "less",
          Cost("cem", GATED, "memory_ratio", -inf, 1.0, PUBLISHED), "peak memory of a step over the published loop's"),
)


CLAIMS = (*PROGRESSIVE, *LOSSES, *TEMPLATES, *SURROGATES)
