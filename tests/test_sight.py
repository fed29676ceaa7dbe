"""What `--check` says of an audit's sight: the judge on real photos, and the prior given the true identities."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from latentprint.config import changed, load_config
from latentprint.label.audit import audit_data, load_models
from latentprint.label.presets import PRESETS, LabelConfig
from latentprint.label.sight import first_photos, sight, verdict_on


def tiny(**overrides: Any) -> LabelConfig:
    return changed(load_config(LabelConfig, "tiny", presets=PRESETS), overrides, "test")


@pytest.mark.parametrize(("k", "n", "least", "sure", "ok"), [
    (20, 20, 0.3, True, True),
    (0, 20, 0.22, True, False),   # at most 17% by the exact interval
    (0, 4, 0.3, True, None),      # up to 60%: too few people to tell
    (0, 20, 0.22, False, None),   # the prior will still be adapted
    (3, 20, 0.3, True, None),     # 15%, up to 38%
    (0, 20, 0.0, True, True),     # nothing is asked where real photos do not pass either
])
def test_a_rate_is_a_fault_where_even_its_interval_is_too_low(k: int, n: int, least: float, sure: bool,
                                                              ok: bool | None) -> None:
    row = verdict_on("prior ceiling", "pictures", torch.arange(n) < k, least, "take another prior", sure)
    assert row.ok is ok and f"{k} of {n} pictures" in row.found
    assert ("take another prior" in row.hint) == (ok is not True)


class Blind(nn.Module):
    """A recogniser that takes everybody for somebody else each time."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1).double()
        return torch.nn.functional.normalize(torch.sin(1e5 * flat[:, :512]), dim=1).float()


def test_the_shipped_networks_see_procedural_people_and_a_blind_judge_does_not() -> None:
    people = {"kind": "procedural", "people": 12, "photos": 5, "first_identity": 0}
    config = tiny(data={"private": people, "n_heldout": 2,
                        "evaluation": {"kind": "procedural", "people": 40, "photos": 4, "first_identity": 9000}})
    data, _ = audit_data(config)
    models = load_models(config, data)
    rows = {row.name: row for row in sight(config, data, models)}
    assert rows["ceiling"].ok is True and rows["prior ceiling"].ok is True
    assert rows["prior ceiling"].found.endswith("of 12 pictures that the prior draws of the people's true embeddings")
    blind = {row.name: row for row in sight(config, data, replace(models, judge=Blind().eval()))}
    assert blind["ceiling"].ok is False and "take a judge that recognises these people" in blind["ceiling"].hint


def test_each_person_is_shown_by_a_photo_of_their_own() -> None:
    data, _ = audit_data(tiny())
    heldout = data.private_heldout
    shown = first_photos(heldout, torch.tensor([2, 0]))
    assert torch.equal(shown[0], heldout.images[(heldout.labels == 2).nonzero()[0, 0]])
    assert torch.equal(shown[1], heldout.images[(heldout.labels == 0).nonzero()[0, 0]])
