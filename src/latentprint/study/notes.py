"""Every number that the user's notes expect and nobody had measured, as claims (seeds 000, 001, 002 and 004)."""

from __future__ import annotations

import math

from latentprint.study.claims import Claim, Cost, Difference, Level, Share

INF = math.inf
UNMEASURED = "no study measures it yet"
SUCCESS = "of runs that reach 80% success on the victim"
REAL = "needs real data sets and their recognisers"


def _annealing(arm: str, metric: str, low: float, high: float, other: str = "") -> Difference:
    return Difference("annealing", arm, metric, low, high, other)


def _losses(arm: str, metric: str, low: float, high: float) -> Difference:
    return Difference("losses", arm, metric, low, high)


def _template(arm: str, low: float, high: float, metric: str = "type2") -> Difference:
    return Difference("template-losses", arm, metric, low, high)


CLAIMS = (
    # ---- seed 000: the progressive hand-over ----
    Claim("000-1.3a", "000, 1.3", "random label embeddings make reference attention uniform", "entropy near log M",
          Level("annealing", "baseline", "attention", 0.95, 1.0), "as a share of log M, at the first look"),
    Claim("000-1.3b", "000, 1.3", "ArcFace embeddings: effective rank 100 to 200, clustering 0.7 to 0.9",
          "rank 100-200", why=REAL),
    Claim("000-2.1a", "000, 2.1", "direct fine-tuning begins with FID above 300", "FID > 300", why=REAL),
    Claim("000-2.1b", "000, 2.1", "the gradient through the prior to a random embedding is near zero", "near 0",
          why="no scale is given; whether the arm baseline learns is in the rows on steps"),
    Claim("000-2.2", "000, 2.2", "direct fine-tuning collapses: all classes draw alike", "lower diversity",
          _annealing("cosine", "diversity", 1e-9, INF)),
    Claim("000-2.3a", "000, 2.3", "direct fine-tuning needs 3000 to 5000 steps", "more steps",
          _annealing("cosine", "steps", -INF, -1e-9)),
    Claim("000-2.3b", "000, 2.3", "direct fine-tuning fails in 30 to 50% of runs", "30-50%",
          Share("annealing", "baseline", "steps", 0.5, 0.7), SUCCESS),
    Claim("000-4.1a", "000, 4.1", "training succeeds in over 95% of runs instead of 50 to 70%", "> 95%",
          Share("annealing", "cosine", "steps", 0.95, 1.0), SUCCESS),
    Claim("000-4.1b", "000, 4.1", "variance of the loss 0.03 instead of 0.15", "-80%",
          _annealing("cosine", "variance", -INF, -1e-9), "of the victim's loss over the last half of the steps"),
    Claim("000-4.1c", "000, 4.1", "3 to 5 gradient explosions without the hand-over", "3-5",
          Level("annealing", "baseline", "spikes", 3, 5), "logged gradients above ten times their median"),
    Claim("000-4.2a", "000, 4.2", "FID below 60 after 1500 steps instead of 3000", "-50% steps",
          _annealing("cosine", "steps", -INF, -1e-9), "steps to 80% success on the victim, not to a FID"),
    Claim("000-4.2b", "000, 4.2", "3.8 hours instead of 10", "-59% time", why="arms have equal steps here"),
    Claim("000-4.3a", "000, 4.3", "FID on FFHQ 48 instead of 55", "-12.7%", why=REAL),
    Claim("000-4.3b", "000, 4.3", "FID on FFHQ-Aging 62 instead of 78", "-20.5%", why=REAL),
    Claim("000-4.3c", "000, 4.3", "FID on RFW-Asian 68 instead of 82", "-17.1%", why=REAL),
    Claim("000-4.3d", "000, 4.3", "FID on RFW-African 71 instead of 89", "-20.2%", why=REAL),
    Claim("000-4.4a", "000, 4.4", "variance of class embeddings 0.15 instead of 0.02", "+650%",
          _annealing("cosine", "diversity", 1e-9, INF)),
    Claim("000-4.4b", "000, 4.4", "generalisation gap of the FID 16 instead of 43", "-63%", why=UNMEASURED),
    Claim("000-7.2a", "000, 7.2", "cosine annealing converges faster than linear", "fewer steps",
          _annealing("cosine", "steps", -INF, -1e-9, "linear")),
    Claim("000-7.2b", "000, 7.2", "the alignment loss helps", "+20%",
          _annealing("cosine", "match", 1e-9, INF, "no-align")),
    Claim("000-8.3a", "000, 8.3", "steps: 1700 instead of 4500", "fewer", _annealing("cosine", "steps", -INF, -1e-9)),
    Claim("000-8.3b", "000, 8.3", "steps of two stages: 2500 instead of 4500", "fewer",
          _annealing("two-stage", "steps", -INF, -1e-9)),
    Claim("000-8.3c", "000, 8.3", "Top-1 87% instead of 72%", "+15 points", _annealing("cosine", "top1", 0.15, INF)),
    Claim("000-8.3d", "000, 8.3", "Top-1 of two stages 81% instead of 72%", "+9 points",
          _annealing("two-stage", "top1", 0.09, INF)),
    Claim("000-8.3e", "000, 8.3", "FID 46 instead of 58", "lower", _annealing("cosine", "frechet", -INF, -1e-9)),
    Claim("000-8.3f", "000, 8.3", "FID of two stages 52 instead of 58", "lower",
          _annealing("two-stage", "frechet", -INF, -1e-9)),
    Claim("000-8.3g", "000, 8.3", "LPIPS 0.24 instead of 0.35", "lower",
          _annealing("cosine", "perceptual", -INF, -1e-9), "distance to the attribute image"),
    Claim("000-8.3h", "000, 8.3", "success of the baseline 65% of runs instead of 97%", "65%",
          Share("annealing", "baseline", "steps", 0.6, 0.7), SUCCESS),
    Claim("000-8.3i", "000, 8.3", "of two stages 85%", "85%",
          Share("annealing", "two-stage", "steps", 0.8, 0.9), SUCCESS),
    Claim("000-spec", "000, 3.2", "public photos paired by the victim's confidence carry the hand-over (random ones do "
          "not)", "pairing helps", _annealing("cosine", "match", 1e-9, INF, "random pairs")),
    # ---- seed 001: the losses ----
    *(Claim(f"001-{arm}", "001, ablation table", f"losses {arm}: success {to}% instead of 78.5%",
            f"{to - 78.5:+.1f} points",
            _losses(arm, "match", *((low, INF) if low > 0 else (-INF, high))))
      for arm, to, low, high in (("A", 79.8, 0.01, 0), ("B", 82.8, 0.03, 0), ("C", 77.0, 0, -0.01),
                                 ("A+B", 83.5, 0.05, 0), ("B+C", 84.5, 0.06, 0), ("A+B+C", 85.0, 0.065, 0),
                                 ("D", 88.2, 0.04, 0))),
    Claim("001-A-quality", "001, A", "A improves LPIPS by 0.2 to 0.3 (and the table has it worse)", "contradictory",
          _losses("A", "perceptual", -INF, -1e-9), "distance to the attribute image"),
    Claim("001-B-identity", "001, B", "B raises the identity's cosine by 0.1 to 0.2", "+0.1 to 0.2",
          _losses("B", "similarity", 0.1, INF)),
    Claim("001-C-diversity", "001, C", "C raises diversity by 15 to 20% (0.45 to 0.70 in the table)", "higher",
          _losses("C", "diversity", 1e-9, INF)),
    Claim("001-C-attributes", "001, C", "C keeps pose and expression better by 0.2 to 0.3", "better",
          _losses("C", "attributes", -INF, -1e-9), "difference of what the attribute network reads"),
    Claim("001-D-diversity", "001, table", "D: diversity 0.60 instead of 0.45", "higher",
          _losses("D", "diversity", 1e-9, INF)),
    Claim("001-D-weights", "001, D3", "the learned weight of cls rises, of perc and prior falls", "1.0 to 2.1",
          Level("losses", "D", "weight", 1.0, INF), "the weight of cls in the end"),
    Claim("001-D-stability", "001, D", "training is 30% steadier", "+30%",
          _losses("D", "variance", -INF, -1e-9), "of the victim's loss over the last half of the steps"),
    # ---- seed 002: templates ----
    Claim("002-sigmoid", "002, 5", "a sigmoid weight: success 80.1% instead of 78.5%", "+1 to 2 points",
          _template("l2 sigmoid", 0.01, INF)),
    Claim("002-infonce", "002, 5", "InfoNCE beside it: 84.7% instead of 78.5%", "+4 to 7 points",
          _template("info-nce sigmoid", 0.04, INF)),
    Claim("002-perceptual", "002, 5", "a perceptual loss changes success by nothing", "0 (+0.3)",
          _template("l2 linear perceptual", -0.03, 0.03)),
    Claim("002-visual", "002, 5", "and pictures look better", "+0.5 to 0.8 of 5",
          _template("l2 linear perceptual", -INF, -1e-9, "perceptual")),
    Claim("002-cost-infonce", "002, 6", "InfoNCE costs less than 5% a step", "1.05x",
          Cost("template", {"loss": "info-nce random"}, "step_ratio", 0.0, 1.05)),
    Claim("002-cost-perceptual", "002, 3", "the perceptual loss costs 15% a step", "1.15x",
          Cost("template", {"loss": "info-nce random, perceptual"}, "step_ratio", 1.1, 1.2,
               {"loss": "info-nce random"})),
    Claim("002-negatives", "002, 4", "hard negatives teach more than random ones", "better",
          Difference("template-negatives", "hard", "type2", 1e-9, INF)),
    Claim("002-tau", "002, 2", "tau of 0.05 to 0.2 works", "no difference",
          Difference("template-temperatures", "tau 0.05", "type2", -0.05, 0.05)),
    Claim("002-gradient", "002, 3", "L2's gradient vanishes as a picture succeeds, InfoNCE's does not", "vanishes",
          why="gradient norms are drawn in every template report"),
    # ---- seed 004: gated attention against the mixture ----
    Claim("004-4a", "004, 4", "accuracy 24.80% instead of 24.45% at lambda 16", "+0.35 points", why=(
        "docs/feature.md explains the regime of 24%")),
    Claim("004-4b", "004, 4", "gated attention leaks less than k-means at equal accuracy: MSE 0.0473 instead of 0.0436",
          "higher MSE", why="docs/results compares surrogates at equal accuracy"),
    Claim("004-4c", "004, 4", "a larger lambda leaks less", "higher MSE",
          Difference("surrogates", "gated 4", "mse", 1e-9, INF)),
    Claim("004-4d", "004, 4", "and accuracy holds or rises with it", "0 or more",
          Difference("surrogates", "gated 4", "accuracy", -0.01, 0.05)),
    Claim("004-3.2", "004, 3.2", "gated attention trains faster than the loop over clusters", "faster",
          Cost("cem", {"surrogate": "gated", "shape": "cifar10"}, "epoch_ratio", -INF, 1.0,
               {"surrogate": "published", "shape": "cifar10"}), "time of an epoch over the published loop's"),
)

