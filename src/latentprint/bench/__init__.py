"""Benchmarks: ratios of things measured side by side in one run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from latentprint.bench.cem import cem
from latentprint.bench.counting import startup
from latentprint.bench.label_step import label_step
from latentprint.bench.memory import memory
from latentprint.bench.template_step import template_step

BENCHES: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "label-step": label_step, "cem": cem, "template": template_step, "startup": startup,
    "memory": memory}
