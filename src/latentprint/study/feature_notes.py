"""What seed 004 expects of gated attention as a surrogate of the conditional entropy, as claims."""

from __future__ import annotations

from math import inf

from latentprint.study.claims import Claim, Cost, Difference, Level, Matched

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
