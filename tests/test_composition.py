"""Settings composed across features: each combination works or is refused in a sentence, and survives a kill.

Networks, images and steps are as small as they go; everything else is the real command line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from small import SMALL_FEATURE, SMALL_LABEL, SMALL_TEMPLATE, command, composed, save_small, small_networks

from latentprint.attack import Attack
from latentprint.engine.loop import Loop
from latentprint.engine.run import RunDir


class Killed(BaseException):
    """Ends a run as a signal does: nothing catches it."""


#: Of a report: what says when, where and how fast, not what was found.
CLOCKS = frozenset({"seconds", "start", "end", "command", "peak_memory_gib", "edge_milliseconds"})
#: Examples in a default test run, and in a thorough one.
FEW, MANY = 3, 25
#: Nothing is shrunk: an example takes seconds, and settings are read one by one.
few = settings(max_examples=FEW, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
               suppress_health_check=list(HealthCheck))
many = settings(few, max_examples=MANY, derandomize=False)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of small untrained assets; named architectures are small and nothing is drawn for the page."""
    with small_networks():
        yield save_small(tmp_path_factory.mktemp("assets"))


class Ticks:
    """Counts steps of training, attacks and saves of a run, and ends it at one of them."""

    def __init__(self, patch: pytest.MonkeyPatch, last: int | None = None) -> None:
        self.count, self.last = 0, last
        for owner, name in ((Loop, "_one"), (RunDir, "save"), (Attack, "__call__"), (RunDir, "write_json")):
            patch.setattr(owner, name, self.ticking(getattr(owner, name)))

    def ticking(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            self.count += 1
            if self.count == self.last:
                raise Killed
            return original(*given, **named)

        return call


def numbers(value: Any) -> Any:
    """A report without `CLOCKS`."""
    if isinstance(value, Mapping):
        return {key: numbers(item) for key, item in value.items() if key not in CLOCKS}
    return [numbers(item) for item in value] if isinstance(value, list) else value


def differing(first: Any, second: Any, where: str = "") -> list[str]:
    """Where two reports differ, with both values."""
    if isinstance(first, dict) and isinstance(second, dict):
        return [line for key in {**first, **second}
                for line in differing(first.get(key), second.get(key), f"{where}.{key}")]
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return [line for i, pair in enumerate(zip(first, second, strict=True))
                for line in differing(*pair, f"{where}.{i}")]
    return [] if first == second else [f"{where}: {first!r} and {second!r}"]


def holds(words: Sequence[str], kill: float) -> str:
    """Run a command, run it again with a kill at a share of its way and go on: the reports are the same.

    Returns:
        how it ended: ``report``, or the sentence by which it was refused.
    """
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        whole, broken = Path(name) / "whole", Path(name) / "broken"
        ticks = Ticks(patch)
        code, said = command(words, whole)
        patch.undo()
        assert code in (0, 2), f"exit code {code}: {said}"
        if code == 2:
            assert said.count("\n") == 1 and len(said) < 700, said
            assert "validation error" not in said and "Traceback" not in said, said
            assert not (whole / "metrics.jsonl").exists(), f"trained before it was refused: {said}"
            return said
        with pytest.MonkeyPatch.context() as second, pytest.raises(Killed):
            Ticks(second, 1 + int(kill * (ticks.count - 1)))
            command(words, broken)
        code, said = command([*words, "--resume"], broken)
        assert code == 0, f"killed at {kill:.2f} of {ticks.count}, resumed with exit code {code}: {said}"
        first, second_report = (numbers(json.loads((out / "report.json").read_text())) for out in (whole, broken))
        assert not (apart := differing(first, second_report)), f"killed at {kill:.2f} of {ticks.count}: {apart}"
    return "report"


def some(*values: object) -> st.SearchStrategy[Any]:
    """One of several values; None leaves the setting out."""
    return st.sampled_from(values)


def chosen(**strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Settings, ``__`` for dots, without those that are left out."""
    return st.fixed_dictionaries(strategies).map(
        lambda found: {key.replace("__", "."): value for key, value in found.items() if value is not None})


# ---- label ----

IMAGE = "{name: stagea, steps: 2, min_steps: 1, batch: 2}"
MIXED = "{name: stageb, identity: mixed, losses: {prior: 1.0, align: 1.0}, steps: 2, min_steps: 1, batch: 2}"
LABEL = ("{name: stagec, identity: label, adapters: all, losses: {cls: 1.0, centre: 1.0, id: 1.0}, steps: 3, "
         "min_steps: 1, batch: 2, weighting: uncertainty}")
LEARNED = "{name: stage0, identity: label, losses: {p_reg: 1.0, diversity: 0.1}, steps: 2, min_steps: 1, batch: 2}"
LABEL_SETTINGS = chosen(
    attack__stages=some(f"[{LABEL}]", f"[{IMAGE}, {LABEL}]", f"[{IMAGE}, {MIXED}, {LABEL}]", f"[{IMAGE}]", f"[{MIXED}]",
                        "[]", f"[{IMAGE}, {LEARNED}]"),
    attack__arm=some(None, None, "baseline", "two-stage", "linear", "cosine", "no-align"),
    attack__loss=some(None, None, "baseline", "A", "A+B", "D"),
    attack__access=some(None, None, None, "scores"),
    attack__initial=some(None, "pseudo", "random"), attack__pairing=some(None, "random"),
    attack__pace=some(None, "alignment"), attack__estimate=some(None, "one_step"),
    attack__guidance=some(None, 2.0), accumulate=some(None, 2), seed=st.integers(0, 3),
    baselines=some(None, None, None, "[mi-face]", "[embedding-search]", "[ppa]", "[direct]", "[guidance]",
                   "[art-mi-face]", "[direct, mi-face]"),
    victim__model=some(None, "builtin:mixer"), attack__gate=some(None, "learned"), data__n_train=some(None, 2),
    adapt=some(None, None, "{codec_steps: 2, prior_steps: 2, batch: 4}"),
    defence=some(None, None, "{kind: label-smoothing}", "{kind: label-smoothing, sign: positive}", "{kind: bido}",
                 "{kind: dp-sgd, delta: 0.001}", "{kind: dp-sgd, epsilon: null}"))


def check_label(small: Path, sets: Mapping[str, object], defend: bool, kill: float) -> str:
    return holds(composed("defend label" if defend else "audit label", small, {**SMALL_LABEL, **sets}), kill)


@few
@given(sets=LABEL_SETTINGS, kill=st.floats(0, 1))
def test_label_settings_compose(small: Path, sets: dict[str, object], kill: float) -> None:
    check_label(small, sets, False, kill)


@pytest.mark.slow
@many
@given(sets=LABEL_SETTINGS, defend=some(False, False, True), kill=st.floats(0, 1))
def test_many_label_settings_compose(small: Path, sets: dict[str, object], defend: bool, kill: float) -> None:
    check_label(small, sets, defend, kill)


@pytest.mark.parametrize("sets", [
    {"attack.arm": "two-stage", "attack.stages": f"[{LABEL}]"},
    {"attack.stages": "[]", "baselines": "[embedding-search]"},
    {"attack.stages": f"[{IMAGE}]", "baselines": "[direct]"},
    {"attack.access": "scores", "attack.stages": "[]", "baselines": "[ppa]"},
])
def test_label_settings_that_do_not_fit_are_refused(small: Path, sets: dict[str, object]) -> None:
    assert check_label(small, sets, False, 0.5) != "report"


# ---- feature ----

SURROGATES = ("{kind: kmeans}", "{kind: gmm}", *(f"{{kind: {kind}, mode: {mode}, learn_every: 2}}"
                                                 for kind in ("slot", "gated")
                                                 for mode in ("frozen", "joint", "own", "density")))
DEFENCES = ("{kind: noise}", "{kind: noise, law: laplace}", "{kind: dropout}", "{kind: top-k}", "{kind: nopeek}",
            "{kind: vib}", "{kind: patrol, at: 0.3}", "{kind: adversarial, blocks: 0, first_steps: 2, steps: 1}",
            *(f"{{kind: noise}}, {{kind: cem, warm_up: 0.0, surrogate: {surrogate}}}" for surrogate in SURROGATES))
FEATURE_SETTINGS = chosen(
    defences=st.one_of(st.just("[]"), some(*DEFENCES).map(lambda one: f"[{one}]"),
                       st.lists(some(*DEFENCES[:8]), min_size=2, max_size=2).map(lambda two: f"[{', '.join(two)}]")),
    attacks=some(None, None, "[perceptual]", "[gan]", "[optimise]", "[prior]", "[decoder, optimise]"),
    variants=some(None, None, "{rate 0.05: {defences: [{kind: dropout}]}, deep: {split.bottleneck: 4}}"),
    split__bounded=some(None, "tanh", "none"), split__cut=some(None, None, "nowhere"),
    repeats=some(None, None, 2), people=some(None, "false"), attacked=some(None, 4), seed=st.integers(0, 3))


@few
@given(sets=FEATURE_SETTINGS, kill=st.floats(0, 1))
def test_feature_settings_compose(small: Path, sets: dict[str, object], kill: float) -> None:
    holds(composed("audit feature", small, {**SMALL_FEATURE, **sets}), kill)


@pytest.mark.slow
@many
@given(sets=FEATURE_SETTINGS, defend=st.booleans(), kill=st.floats(0, 1))
def test_many_feature_settings_compose(small: Path, sets: dict[str, object], defend: bool, kill: float) -> None:
    holds(composed("defend feature" if defend else "audit feature", small, {**SMALL_FEATURE, **sets}), kill)


# ---- template ----

PROTECTIONS = ("{kind: noise}", "{kind: quantise}", "{kind: partial}", "{kind: projection}", "{kind: polyprotect}",
               "{kind: mlp-hash}")
TEMPLATE_SETTINGS = chosen(
    protection=some(None, None, *PROTECTIONS), attack__access=some(None, None, "transfer", "scores"),
    attack__generators=some(None, None, "[prior]", "[decoder, prior]"), attack__surrogate=some(None, "judge"),
    attack__loss__feature=some(None, "l2"), attack__loss__negatives=some(None, "hard", "queue"),
    attack__loss__perceptual=some(None, "{kind: constant, most: 0.5}"),
    attack__loss__weight=some(None, "{kind: linear}", "{over: progress}"),
    attack__refine_steps=some(None, 2), attack__views=some(None, 0.0), accumulate=some(None, 2),
    judges=some(None, None, "[]"), seed=st.integers(0, 3))


@few
@given(sets=TEMPLATE_SETTINGS, kill=st.floats(0, 1))
def test_template_settings_compose(small: Path, sets: dict[str, object], kill: float) -> None:
    holds(composed("audit template", small, {**SMALL_TEMPLATE, **sets}), kill)


@pytest.mark.slow
@many
@given(sets=TEMPLATE_SETTINGS, defend=some(False, False, True), kill=st.floats(0, 1))
def test_many_template_settings_compose(small: Path, sets: dict[str, object], defend: bool, kill: float) -> None:
    compared = {"compared": "[{kind: quantise}, {kind: partial}]"} if defend else {}
    holds(composed("defend template" if defend else "audit template", small,
                   {**SMALL_TEMPLATE, **sets, **compared}), kill)


def test_queries_of_a_trained_generator_are_counted_after_a_kill(small: Path) -> None:
    assert holds(composed("audit template", small, {**SMALL_TEMPLATE, "attack.refine_steps": 2}), 0.9) == "report"


def test_lines_are_written_where_there_is_no_terminal(small: Path, monkeypatch: pytest.MonkeyPatch,
                                                      tmp_path: Path) -> None:
    monkeypatch.delenv("LATENTPRINT_QUIET")
    code, said = command(composed("audit template", small, {**SMALL_TEMPLATE, "attack.refine_steps": 2}),
                         tmp_path / "run")
    assert code == 0, said
    assert "generator-decoder: begins at step 0 of 4\n" in said and "refining: ended at step 3 of 3" in said
