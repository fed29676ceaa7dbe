"""All statistics of this project: intervals over identities (`identities`) and comparisons over seeds (`seeds`)."""

from latentprint.stats.identities import Arm, bootstrap_by_identity, leak_interval, resampled_counts
from latentprint.stats.interval import Interval
from latentprint.stats.seeds import (
    Paired,
    Time,
    holm,
    kaplan_meier_median,
    paired,
    sign_flip,
    success_rate,
    t_interval,
    time_to_threshold,
)

__all__ = [
    "Arm",
    "Interval",
    "Paired",
    "Time",
    "bootstrap_by_identity",
    "holm",
    "kaplan_meier_median",
    "leak_interval",
    "paired",
    "resampled_counts",
    "sign_flip",
    "success_rate",
    "t_interval",
    "time_to_threshold",
]
