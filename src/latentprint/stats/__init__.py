"""All statistics of this project: intervals over people, of rates (`rates`) and of other values (`identities`), and
comparisons over seeds (`seeds`)."""

from latentprint.stats.identities import Arm, Interval, bootstrap_by_identity, leak_interval, resampled_counts
from latentprint.stats.rates import (
    difference_interval,
    leak_reduction_interval,
    rate_interval,
    rate_leak_interval,
)
from latentprint.stats.seeds import (
    Paired,
    Time,
    count_interval,
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
    "count_interval",
    "difference_interval",
    "holm",
    "kaplan_meier_median",
    "leak_interval",
    "leak_reduction_interval",
    "paired",
    "rate_interval",
    "rate_leak_interval",
    "resampled_counts",
    "sign_flip",
    "success_rate",
    "t_interval",
    "time_to_threshold",
]
