"""What changes over training: lambda and its phase, the mix of embeddings, and when to stop."""

from latentprint.schedules.annealing import PhaseClock, cosine_lambda, linear_lambda
from latentprint.schedules.mixing import Mixing, mix
from latentprint.schedules.ramp import Ramp, WeightRamp
from latentprint.schedules.stopping import no_lower, plateau

__all__ = ["Mixing", "PhaseClock", "Ramp", "WeightRamp", "cosine_lambda", "linear_lambda", "mix", "no_lower",
           "plateau"]
