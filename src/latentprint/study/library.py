"""The notes' questions as studies, by name. `latentprint study run NAME`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import yaml

from latentprint.errors import UserError
from latentprint.keys import did_you_mean
from latentprint.study import feature_questions, label_questions, template_questions
from latentprint.study.definition import Study, study_of

STUDIES: Mapping[str, Study] = MappingProxyType({study.name: study for study in (
    label_questions.ANNEALING, label_questions.LOSSES, label_questions.POPULATED, label_questions.EMBEDDINGS,
    template_questions.LOSSES, template_questions.NEGATIVES, template_questions.TEMPERATURES,
    feature_questions.SURROGATES, feature_questions.REGIME)})


def find_study(name: str) -> Study:
    """A built-in study, or one from a YAML file.

    Raises:
        UserError: neither, or the file is not a study.
    """
    if name in STUDIES:
        return STUDIES[name]
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"no study '{name}'; {did_you_mean(name, STUDIES)}, or a YAML file")
    try:
        told = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a study ({' '.join(str(error).split())})") from None
    return study_of(told, str(path))
