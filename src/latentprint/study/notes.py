"""Every number that the user's notes expect and nobody had measured, as claims (seeds 000, 001, 002 and 004)."""

from __future__ import annotations

from latentprint.study.feature_notes import SURROGATES
from latentprint.study.label_notes import LOSSES, PROGRESSIVE
from latentprint.study.template_notes import TEMPLATES

CLAIMS = (*PROGRESSIVE, *LOSSES, *TEMPLATES, *SURROGATES)
