"""What seeds 000 and 001 expect of the label channel, as claims."""

from __future__ import annotations

from math import inf

from latentprint.study.claims import Claim, Difference, Level, Share

UP, DOWN = (0, inf), (-inf, 0)
SUCCESS = "of runs that reach 80% success on the victim"
STEPS = "steps to 80% success on the victim, not to a FID"
APART = "perceptual distance to the attribute image, in the packaged network"
MATCH = "identity match on people of that population, not a FID"
CLOUD = "the packaged teacher, 2,000 photos of procedural people"


#: Of a difference that is claimed as a single number, so much of it on both sides still confirms its size.
PART = 0.5


def _annealing(arm: str, metric: str, low: float, high: float, other: str = "", tolerance: float = 0) -> Difference:
    return Difference("annealing", arm, metric, low, high, other, tolerance=tolerance)


def _losses(arm: str, metric: str, low: float, high: float, tolerance: float = 0) -> Difference:
    return Difference("losses", arm, metric, low, high, tolerance=tolerance)


def _cloud(metric: str, low: float, high: float, tolerance: float = 0) -> Level:
    return Level("embeddings", "untrained", metric, low, high, tolerance=tolerance)


PROGRESSIVE = (
    Claim("000-1.3a", "000, 1.3", "random label embeddings make reference attention uniform", "entropy near log M",
          Level("annealing", "baseline", "attention", 0.95, 1.0), "as a share of log M, at the first look"),
    Claim("000-1.3b", "000, 1.3", "a recogniser's embeddings have an effective rank of 100 to 200", "100-200",
          _cloud("effective_rank photos", 100, 200), CLOUD),
    Claim("000-1.3c", "000, 1.3", "a recogniser's embeddings cluster by person", "0.7-0.9",
          _cloud("silhouette photos", 0.7, 0.9), f"silhouette by cosine; {CLOUD}"),
    Claim("000-1.3d", "000, 1.3", "dimensions of a recogniser's embeddings are highly correlated", "r > 0.6",
          _cloud("mean_abs_correlation photos", 0.6, inf), f"mean absolute correlation; {CLOUD}"),
    Claim("000-1.3e", "000, 1.3", "angles between people are 30 to 90 degrees", "30-90",
          _cloud("mean_angle photos", 30, 90), f"mean angle; {CLOUD}"),
    Claim("000-1.3f", "000, 1.3", "dimensions of untrained label embeddings are independent", "r near 0",
          _cloud("mean_abs_correlation random", 0, 0.05), "2,000 random directions, as labels begin"),
    Claim("000-1.3g", "000, 1.3", "untrained label embeddings have full rank", "about 512",
          _cloud("effective_rank random", 460, 512), "2,000 random directions, as labels begin"),
    Claim("000-1.3h", "000, 1.3", "angles of untrained label embeddings are spread evenly over 0 to 180 degrees",
          "spread of 52 degrees",
          _cloud("sd_angle random", 52, 52, 8), "standard deviation over pairs of 2,000 random directions"),
    Claim("000-1.3i", "000, 1.3", "the norm of untrained label embeddings is 5.2", "5.2 (sd 1.3)",
          why="label embeddings are normalised here, as photos' are"),
    Claim("000-2.1a", "000, 2.1", "direct fine-tuning begins far from natural pictures (FID above 300)", "far higher",
          _annealing("cosine", "begun", *DOWN), "Frechet distance at the first look, the hand-over less direct "
          "fine-tuning"),
    Claim("000-2.1b", "000, 2.1", "the gradient to a random embedding is near zero at first", "near 0",
          Level("annealing", "baseline", "gradient", 3, inf), "gradient of the last quarter of the steps over that of "
          "the first: large, had it begun near zero"),
    Claim("000-2.2", "000, 2.2", "direct fine-tuning collapses: all classes draw alike", "more alike",
          _annealing("cosine", "alike", *DOWN), "likeness of the pictures of different classes to the teacher"),
    Claim("000-2.3a", "000, 2.3", "direct fine-tuning needs 3000 to 5000 steps", "more steps",
          _annealing("cosine", "steps", *DOWN), STEPS),
    Claim("000-2.3b", "000, 2.3", "direct fine-tuning fails in 30 to 50% of runs", "30-50%",
          Share("annealing", "baseline", "steps", 0.5, 0.7), SUCCESS),
    Claim("000-3.2a", "000, 3.2", "public photos paired by the victim's confidence carry the hand-over, random ones do "
          "not (open in the notes)", "pairing helps", _annealing("cosine", "match", *UP, "random pairs")),
    Claim("000-3.2b", "000, 3.2", "the hand-over ends with a Top-1 above 80%", "> 80%",
          Level("annealing", "cosine", "top1", 0.8, inf)),
    Claim("000-3.2c", "000, 3.2", "the hand-over ends with a similarity to the identity above 0.7", "> 0.7",
          Level("annealing", "cosine", "identity", 0.7, inf), "by the teacher, at the last look"),
    Claim("000-4.1a", "000, 4.1", "training succeeds in over 95% of runs instead of 50 to 70%", "> 95%",
          Share("annealing", "cosine", "steps", 0.95, 1.0), SUCCESS),
    Claim("000-4.1b", "000, 4.1", "variance of the loss 0.03 instead of 0.15", "-80%",
          _annealing("cosine", "variance", *DOWN), "of the victim's loss over the last half of the steps"),
    Claim("000-4.1c", "000, 4.1", "3 to 5 gradient explosions without the hand-over", "3-5",
          Level("annealing", "baseline", "spikes", 3, 5), "logged gradients above ten times their median"),
    Claim("000-4.1d", "000, 4.1", "no gradient explosions with the hand-over", "0",
          Level("annealing", "cosine", "spikes", 0, 0), "logged gradients above ten times their median"),
    Claim("000-4.1e", "000, 4.1", "initial FID below 50 instead of above 300", "-83%",
          _annealing("cosine", "begun", *DOWN), "Frechet distance at the first look"),
    Claim("000-4.2a", "000, 4.2", "FID below 60 after 1500 steps instead of 3000", "-50% steps",
          _annealing("cosine", "steps", *DOWN), STEPS),
    Claim("000-4.2b", "000, 4.2", "FID below 100 after 700 steps instead of 1500", "-53% steps",
          why="no FID here; one row on steps stands for these"),
    Claim("000-4.2c", "000, 4.2", "FID below 50 after 2000 steps instead of over 5000", "-60% steps",
          why="no FID here; one row on steps stands for these"),
    Claim("000-4.2d", "000, 4.2", "5.9 hours instead of 14.3", "-59% time", why="arms have equal steps here; steps to "
          "success are measured"),
    Claim("000-4.3a", "000, 4.3", "FID on FFHQ, the prior's domain, 48 instead of 55", "-12.7%",
          Difference("populations", "cosine", "default", *UP), MATCH),
    Claim("000-4.3b", "000, 4.3", "FID on FFHQ-Aging 62 instead of 78", "-20.5%",
          Difference("populations", "cosine", "aged", *UP), MATCH),
    Claim("000-4.3c", "000, 4.3", "FID on RFW-Asian 68 instead of 82", "-17.1%",
          Difference("populations", "cosine", "palette", *UP), f"{MATCH}: other palettes of skin and eyes"),
    Claim("000-4.3d", "000, 4.3", "FID on RFW-African 71 instead of 89", "-20.2%",
          Difference("populations", "cosine", "palette", *UP), f"{MATCH}: other palettes of skin and eyes"),
    Claim("000-4.4a", "000, 4.4", "variance of class embeddings 0.15 instead of 0.02", "+650%",
          _annealing("cosine", "between", *UP), "between classes, at the last look"),
    Claim("000-4.4b", "000, 4.4", "FID on the test set 58 instead of 78", "-26%",
          Difference("populations", "cosine", "frechet", *DOWN), "Frechet distance to private photos"),
    Claim("000-4.4c", "000, 4.4", "generalisation gap of the FID 16 instead of 43", "-63%",
          Difference("populations", "cosine", "gap", *DOWN), "distance to private photos less that to public ones"),
    Claim("000-5.1", "000, 5.1", "two stages succeed in 50 to 70% of runs (85% in section 8.3)", "50-70%",
          Share("annealing", "two-stage", "steps", 0.5, 0.7), SUCCESS),
    Claim("000-7.2a", "000, 7.2", "cosine annealing converges faster than linear", "+50%",
          _annealing("cosine", "steps", *DOWN, "linear"), STEPS),
    Claim("000-7.2b", "000, 7.2", "the alignment loss helps", "+20%", _annealing("cosine", "match", *UP, "no-align")),
    Claim("000-8.3a", "000, 8.3", "steps: 1700 instead of 4500", "fewer", _annealing("cosine", "steps", *DOWN), STEPS),
    Claim("000-8.3b", "000, 8.3", "steps of two stages: 2500 instead of 4500", "fewer",
          _annealing("two-stage", "steps", *DOWN), STEPS),
    Claim("000-8.3c", "000, 8.3", "Top-1 87% instead of 72%", "+15 points",
          _annealing("cosine", "top1", 0.15, 0.15, tolerance=0.15 * PART)),
    Claim("000-8.3d", "000, 8.3", "Top-1 of two stages 81% instead of 72%", "+9 points",
          _annealing("two-stage", "top1", 0.09, 0.09, tolerance=0.09 * PART)),
    Claim("000-8.3e", "000, 8.3", "FID 46 instead of 58", "lower", _annealing("cosine", "frechet", *DOWN)),
    Claim("000-8.3f", "000, 8.3", "FID of two stages 52 instead of 58", "lower",
          _annealing("two-stage", "frechet", *DOWN)),
    Claim("000-8.3g", "000, 8.3", "LPIPS 0.24 instead of 0.35", "lower", _annealing("cosine", "perceptual", *DOWN),
          APART),
    Claim("000-8.3h", "000, 8.3", "LPIPS of two stages 0.28 instead of 0.35", "lower",
          _annealing("two-stage", "perceptual", *DOWN), APART),
    Claim("000-8.3i", "000, 8.3", "success of the baseline 65% of runs instead of 97%", "65%",
          Share("annealing", "baseline", "steps", 0.65, 0.65, tolerance=0.05), SUCCESS),
    Claim("000-8.3j", "000, 8.3", "success of two stages 85%", "85%",
          Share("annealing", "two-stage", "steps", 0.85, 0.85, tolerance=0.05), SUCCESS),
)

#: The notes' ablation table: success in percent, LPIPS, diversity.
BEFORE = (78.5, 0.32, 0.45)
TABLE = {"A": (79.8, 0.35, 0.45), "B": (82.8, 0.31, 0.47), "C": (77.0, 0.42, 0.70), "A+B": (83.5, 0.33, 0.48),
         "B+C": (84.5, 0.40, 0.65), "A+B+C": (85.0, 0.38, 0.62), "D": (88.2, 0.36, 0.60)}


def _gain(arm: str, points: float) -> Difference:
    """Direction and size of a difference in percentage points."""
    change = round(points, 1) / 100
    return _losses(arm, "match", change, change, abs(change) * PART)


ABLATION = tuple(claim for arm, (success, lpips, diversity) in TABLE.items() for claim in (
    Claim(f"001-{arm}", "001, table", f"losses {arm}: success {success}% instead of {BEFORE[0]}%",
          f"{success - BEFORE[0]:+.1f} points", _gain(arm, success - BEFORE[0]),
          "identity match by the judge"),
    Claim(f"001-{arm}-lpips", "001, table", f"losses {arm}: LPIPS {lpips} instead of {BEFORE[1]}",
          f"{lpips - BEFORE[1]:+.2f}", _losses(arm, "perceptual", *(UP if lpips > BEFORE[1] else DOWN)), APART),
    Claim(f"001-{arm}-diversity", "001, table", f"losses {arm}: diversity {diversity} instead of {BEFORE[2]}",
          f"{diversity - BEFORE[2]:+.2f}", _losses(arm, "diversity", *(
              UP if diversity > BEFORE[2] else (-0.02, 0.02))),
          "within a class, by the judge"),
))

LOSSES = (
    *ABLATION,
    Claim("001-A-text", "001, A", "A costs 1 to 2 points of success (its table says +1.3)", "-1 to -2 points",
          _losses("A", "match", -0.02, -0.01), "identity match by the judge"),
    Claim("001-A-quality", "001, A", "A improves LPIPS by 0.2 to 0.3 (its table has it worse)", "-0.2 to -0.3",
          _losses("A", "perceptual", -0.3, -0.2), APART),
    Claim("001-B-identity", "001, B", "B raises the identity's cosine by 0.1 to 0.2", "+0.1 to 0.2",
          _losses("B", "similarity", 0.1, 0.2), "by the judge"),
    Claim("001-B1", "001, B1", "for 10 classes k is 1", "1", why="the formula beside it, max(2, min(5, C // 20)), "
          "gives 2, and stands"),
    Claim("001-C-attributes", "001, C", "C keeps pose and expression better by 0.2 to 0.3", "better",
          _losses("C", "attributes", *DOWN), "difference of what the attribute network reads"),
    *(Claim(f"001-D-{loss}", "001, D3", f"the learned weight of {name} goes from {first} to {last}",
            "rises" if last > first else "falls",
            Level("losses", "D", f"weight {loss}", *((1.0, inf) if last > first else (-inf, 1.0))),
            "at the end of stage 2 over that after the phases of A3, which change weights on their own")
      for loss, name, first, last in (("cls", "cls", 1.0, 2.1), ("prior", "prior", 1.2, 0.2),
                                      ("perceptual", "perc", 0.5, 0.05), ("norm", "reg", 0.2, 0.25))),
    Claim("001-D-stability", "001, D", "training is 30% steadier", "-30%", _losses("D", "variance", *DOWN),
          "variance of the victim's loss over the last half of the steps"),
)
