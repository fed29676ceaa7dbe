"""Settings: sources in order, strict types, and one sentence for everything that can be wrong."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator

from latentprint.config import Config, changed, config_hash, describe, load_config, read_given, to_yaml
from latentprint.errors import UserError
from latentprint.keys import REQUIRED, Key, did_you_mean


class Stage(Config):
    steps: int = Field(100, ge=1, description="optimiser steps")
    lr: float = Field(1e-3, gt=0, le=1, description="learning rate")

    @model_validator(mode="after")
    def _even(self) -> Stage:
        if self.steps == 13:
            raise ValueError("steps must not be 13")
        return self


class Drawn(Config):
    kind: Literal["drawn"] = "drawn"
    people: int = Field(10, ge=1, description="how many")
    size: int = Field(64, description="pixels")


class Pack(Config):
    kind: Literal["npz", "zip"] = "npz"
    path: Path = Field(description="the file")
    size: int = Field(64, description="pixels")


Source = Annotated[Drawn | Pack, Field(discriminator="kind")]


class Data(Config):
    private: Source = Drawn(people=5)
    public: list[Source] = Field([Drawn(people=7, size=32)], description="pictures that anybody has")


class Settings(Config):
    seed: int = Field(0, ge=0, description="seed of everything")
    name: str = Field("faces", pattern="^[a-z ]+$", description="what it is called")
    device: Literal["cpu", "cuda"] = Field("cpu", description="where")
    bound: float | None = Field(None, description="null for none")
    folder: Path | None = Field(None, description="where the pictures are")
    top_k: int | Literal["auto"] = Field("auto", description="how many")
    sizes: tuple[Annotated[int, Field(ge=8)], ...] = Field((32, 64), description="pixels")
    weights: dict[str, float] = Field({"prior": 1.0, "cls": 0.5}, description="of the losses")
    resume: bool = Field(False, description="go on")
    warm_up: Stage = Stage(steps=300)
    stages: tuple[Stage, ...] = (Stage(), Stage(steps=200, lr=1e-4))
    extra: Stage | None = None
    variants: dict[str, dict[str, Any]] = Field({}, description="settings that differ, by name")
    limits: dict[str, Stage] = Field({}, description="by name")
    options: dict[str, Any] = Field({}, description="of one's own code")


class Needy(Config):
    data: str = Field(description="a folder")


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"warm_up.steps": 2, "stages": {"1.lr": 1e-2}, "device": "cuda"},
    "small": {},
    "full": {"warm_up": {"steps": 900}},
}


def load(*sets: str, preset: str | None = None, file: Path | None = None) -> Settings:
    return load_config(Settings, preset, file, sets, "label", PRESETS)


def complaint(*sets: str, preset: str | None = None, file: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load(*sets, preset=preset, file=file)
    return str(caught.value)


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str | bytes) -> Path:
        file = tmp_path / "my settings é.yaml"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    return write


# ---- names with dots ----


@pytest.mark.parametrize(("text", "where", "value"), [
    ("variants.rate 0.05.warm_up.lr=0.5", ("variants", "rate 0.05", "warm_up"), {"lr": 0.5}),
    ("variants.rate 0.05={warm_up.lr: 0.5}", ("variants", "rate 0.05", "warm_up"), {"lr": 0.5}),
    ("variants={rate 0.05: {warm_up.lr: 0.5}}", ("variants", "rate 0.05", "warm_up"), {"lr": 0.5}),
    ('variants."v1.seed".seed=2', ("variants", "v1.seed"), {"seed": 2}),
    ('variants."a=b.c".seed=2', ("variants", "a=b.c"), {"seed": 2}),
    ("variants.plain.stages.1.lr=0.5", ("variants", "plain", "stages", "1"), {"lr": 0.5}),
    ("limits.rate 0.05.lr=0.5", ("limits", "rate 0.05"), Stage(lr=0.5)),
    ("weights.at 0.5=2", ("weights", "at 0.5"), 2),
    ("options.a.b={c.d: 1}", ("options", "a.b"), {"c.d": 1}),
])
def test_names_of_the_users_own_hold_dots(text: str, where: tuple[str, ...], value: object) -> None:
    found: Any = load(text)
    for part in where:
        found = getattr(found, part) if isinstance(found, Config) else found[part]
    assert found == value


def test_variants_in_a_file_keep_their_names_and_are_changed_by_them(write: Any) -> None:
    file = write("variants:\n  rate 0.05: {warm_up.lr: 0.5}\n  rate 0.1: {seed: 3}\n")
    got = load("variants.rate 0.05.warm_up.steps=7", file=file)
    assert got.variants == {"rate 0.05": {"warm_up": {"lr": 0.5, "steps": 7}}, "rate 0.1": {"seed": 3}}
    assert changed(got, got.variants["rate 0.05"], "variants").warm_up == Stage(steps=7, lr=0.5)


@pytest.mark.parametrize(("text", "said"), [
    ("limits.rate 0.05.lr=2", "'limits.\"rate 0.05\".lr' should be less than or equal to 1, not 2 (from --set)"),
    ('variants."a.seed=1', "the key 'variants.\"a.seed' has a quote that is not closed"),
    ("variants..seed=1", "the key 'variants..seed' has an empty part"),
])
def test_complaints_about_names_with_dots(text: str, said: str) -> None:
    assert said in complaint(text)


def test_a_group_from_a_file_of_its_own_is_named_by_the_file(write: Any) -> None:
    file = write("lr: 2\n")
    group = read_given("warm_up", file, "steps: 3")
    with pytest.raises(UserError, match=r"'warm_up\.lr' should be less than or equal to 1, not 2") as caught:
        load_config(Settings, None, None, (), "label", PRESETS, [group])
    assert f"(from --victim {file})" in str(caught.value)
    assert load_config(Settings, None, None, ["warm_up.lr=0.5"], "label", PRESETS, [group]).warm_up.lr == 0.5
    with pytest.raises(UserError, match="expected settings such as 'steps: 3', got \"text\""):
        read_given("warm_up", write("text"), "steps: 3")


# ---- sources ----


def test_later_sources_win_and_leave_the_rest(write: Any) -> None:
    file = write("warm_up:\n  lr: 1e-2\nseed: 3\nstages.0.steps: 5\n")
    got = load("seed=4", "stages.1.steps=6", preset="tiny", file=file)
    assert got == Settings(
        seed=4,
        device="cuda",
        warm_up=Stage(steps=2, lr=1e-2),
        stages=(Stage(steps=5), Stage(steps=6, lr=1e-2)),
    )


def test_without_sources_the_defaults() -> None:
    assert load() == load(preset="small") == Settings()
    assert load(preset="full").warm_up == Stage(steps=900)


def test_an_empty_file_changes_nothing(write: Any) -> None:
    assert load(file=write("# nothing\n")) == Settings()


def test_a_whole_list_is_replaced_and_an_item_is_changed() -> None:
    assert load("sizes=[8]").sizes == (8,)
    assert load("sizes.1=128").sizes == (32, 128)
    assert load("stages=[{steps: 7}]").stages == (Stage(steps=7),)


def test_a_mapping_keeps_its_other_keys() -> None:
    assert load("weights.cls=2", "weights.id=3").weights == {"prior": 1.0, "cls": 2.0, "id": 3.0}


def test_an_absent_group_comes_up_with_its_defaults() -> None:
    assert load("extra.steps=9").extra == Stage(steps=9)
    assert load("extra={}").extra == Stage()


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E+2", 100.0), ("2", 2.0), ("-.5e1", -5.0), ("null", None), ("", None)],
)
def test_numbers_as_people_write_them(text: str, value: float | None) -> None:
    assert load(f"bound={text}").bound == value


def test_yaml_keeps_its_merge_keys_and_merged_values_can_be_overridden(write: Any) -> None:
    file = write("warm_up: &base {steps: 4, lr: 0.5}\nextra:\n  <<: *base\n  steps: 8\n")
    assert load(file=file).extra == Stage(steps=8, lr=0.5)


def test_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().seed = 1  # type: ignore[misc]


def data(*sets: str, file: Path | None = None) -> Data:
    return load_config(Data, file=file, sets=sets, channel="label")


def test_another_kind_starts_its_group_afresh_in_any_order(write: Any) -> None:
    pack = Pack(path=Path("x.npz"))
    assert data("private.people=6").private == Drawn(people=6)
    assert data("private.kind=npz", "private.path=x.npz").private == pack
    assert data("private.path=x.npz", "private.kind=npz").private == pack
    assert data("public.0.kind=npz", "public.0.path=x.npz").public == [pack]
    file = write("private: {kind: npz, path: y.npz}\npublic: [{kind: drawn}, {kind: zip, path: z}]\n")
    assert data("private.path=x.npz", file=file).private == pack
    assert data("public.1.size=9", file=file).public == [Drawn(), Pack(kind="zip", path=Path("z"), size=9)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("private.path=x", "'private.path' is not a setting of this kind (from --set); npz|zip: the file"),
        ("private.pth=x", "unknown key 'private.pth' (from --set); did you mean 'private.path'?"),
        ("private.kind=npz", "'private.path' must be given: path, npz|zip: the file"),
        ("private.kind=np", "'private.kind' should be one of 'drawn', 'npz', 'zip', not \"np\" (from --set)"),
        ("public=[{size: 8}]", "'public.0.kind' must be given"),
        ("public=[{kind: zip, path: 3}]", "'public.0.path' should be text, not 3 (from --set)"),
    ],
)
def test_kinds_are_explained(given: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        data(given)
    assert str(caught.value) == f"label: {said}"


# ---- what can be wrong ----


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("sed=1", "label: unknown key 'sed' (from --set); did you mean 'seed'?"),
        ("warm_up.step=1", "label: unknown key 'warm_up.step' (from --set); did you mean 'warm_up.steps'?"),
        ("steps=1", "label: unknown key 'steps' (from --set); did you mean 'warm_up.steps'?"),
        ("stages.1.ler=1", "label: unknown key 'stages.1.ler' (from --set); did you mean 'stages.1.lr'?"),
        ("warm_up.zzz=1", "label: unknown key 'warm_up.zzz' (from --set); there is steps, lr"),
        ("warmup.lr=1", "label: unknown key 'warmup' (from --set); did you mean 'warm_up'?"),
        ("seed=x", "label: 'seed' should be a whole number, not \"x\" (from --set)"),
        ("seed=1.0", "label: 'seed' should be a whole number, not 1.0 (from --set)"),
        ("seed='1'", "label: 'seed' should be a whole number, not \"1\" (from --set)"),
        ("seed=true", "label: 'seed' should be a whole number, not true (from --set)"),
        ("seed=-1", "label: 'seed' should be greater than or equal to 0, not -1 (from --set)"),
        ("seed.x=1", "label: 'seed' should be a whole number, not {\"x\": 1} (from --set)"),
        ("warm_up.lr=2", "label: 'warm_up.lr' should be less than or equal to 1, not 2 (from --set)"),
        ("bound=.nan", "label: 'bound' should be a finite number, not NaN (from --set)"),
        ("bound=yes", "label: 'bound' should be a number, not true (from --set)"),
        ("resume=1", "label: 'resume' should be true or false, not 1 (from --set)"),
        ("device=gpu", "label: 'device' should be 'cpu' or 'cuda', not \"gpu\" (from --set)"),
        ("name=3", "label: 'name' should be text, not 3 (from --set)"),
        ("name=A", "label: 'name' should match pattern '^[a-z ]+$', not \"A\" (from --set)"),
        ("top_k=few", "label: 'top_k' should be a whole number or be 'auto', not \"few\" (from --set)"),
        ("sizes=[8,4]", "label: 'sizes.1' should be greater than or equal to 8, not 4 (from --set)"),
        ("sizes=8", "label: 'sizes' should be a list, not 8 (from --set)"),
        ("sizes.7=8", "label: 'sizes' should be a list, not {\"7\": 8} (from --set)"),
        ("weights.cls=a", "label: 'weights.cls' should be a number, not \"a\" (from --set)"),
        ("warm_up=3", "label: 'warm_up' should be a group of keys, not 3 (from --set)"),
        ("warm_up.steps=13", "label: 'warm_up': steps must not be 13 (from --set)"),
        ("seed", 'label: --set "seed" should be key=value, as in --set seed=1'),
        ("=1", 'label: --set "=1" should be key=value, as in --set seed=1'),
        ("a..b=1", "label: the key 'a..b' has an empty part; keys are written a.b=value or nested"),
    ],
)
def test_set_is_answered_in_one_sentence(given: str, said: str) -> None:
    assert complaint(given) == said


def test_invalid_yaml_in_set_names_the_key() -> None:
    said = complaint("sizes=[8")
    assert said.startswith('label: --set sizes: "[8" is not valid YAML: ')
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 1\nseed: 2\n", "is not valid YAML: the key 'seed' is written twice (line 2, column 1)"),
        ("- 1\n", "should hold 'key: value' lines, not [1]"),
        ("faces", "should hold 'key: value' lines, not \"faces\""),
        (b"name: \xff", "is not UTF-8 text"),
        ("warm_up: &x {steps: *x}", "is not valid YAML: Circular reference detected"),
        ("? [1]\n: 2", "is not valid YAML: found unhashable key (line 1, column 3)"),
        ("seed: !!js x", "is not valid YAML: could not determine a constructor for the tag "
                         "'tag:yaml.org,2002:js' (line 1, column 7)"),
    ],
)  # fmt: skip
def test_a_bad_file_is_named(write: Any, text: str | bytes, said: str) -> None:
    file = write(text)
    assert complaint(file=file) == f"label: the config file {file} {said}"


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "no.yaml"
    start = "label: cannot read the config file"
    assert complaint(file=missing) == f"{start} {missing}: No such file or directory"
    assert complaint(file=tmp_path) == f"{start} {tmp_path}: Is a directory"


def test_the_source_of_the_fault_is_named_not_that_of_another_key(write: Any) -> None:
    file = write("warm_up: {steps: 0}")
    said = complaint("warm_up.lr=0.5", "seed=3", preset="tiny", file=file)
    assert said == f"label: 'warm_up.steps' should be greater than or equal to 1, not 0 (from {file})"
    said = complaint("sizes=[8]", file=write("sizes: [4]\nwarm_up: {steps: 0}"))
    assert said.startswith("label: 'warm_up.steps'")


def test_presets() -> None:
    assert complaint(preset="tny") == "label: unknown preset 'tny'; did you mean 'tiny'?"
    assert complaint(preset="x") == "label: unknown preset 'x'; there is tiny, small, full"
    with pytest.raises(UserError, match="unknown key 'sed' \\(from preset a\\); did you mean 'seed'"):
        load_config(Settings, "a", presets={"a": {"sed": 1}})


def test_a_required_key_is_asked_for_with_its_meaning() -> None:
    with pytest.raises(UserError, match=r"^config: 'data' must be given: text, a folder$"):
        load_config(Needy)
    assert load_config(Needy, sets=["data=x y"]).data == "x y"


def test_a_long_value_is_cut() -> None:
    assert len(complaint(f"seed={'x' * 10_000}")) < 150


# ---- properties ----

finite = st.floats(allow_nan=False, allow_infinity=False)
configs = st.builds(
    Settings,
    seed=st.integers(0, 2**64),
    name=st.text("abc ", min_size=1),
    bound=st.none() | finite,
    folder=st.none() | st.text("aé/ .:#-", min_size=1).map(Path),
    top_k=st.integers() | st.just("auto"),
    sizes=st.lists(st.integers(8, 512)).map(tuple),
    weights=st.dictionaries(st.text("abc_", min_size=1), finite),
    resume=st.booleans(),
    extra=st.none() | st.builds(Stage, steps=st.integers(20, 99), lr=st.floats(1e-9, 1)),
)


@given(configs)
def test_yaml_holds_everything(tmp_path_factory: pytest.TempPathFactory, config: Settings) -> None:
    file = tmp_path_factory.getbasetemp() / "config.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    again = load(file=file)
    # A mapping is merged over the default's keys, so those come back too.
    assert again == config.model_copy(update={"weights": {**Settings().weights, **config.weights}})


@given(configs, configs)
def test_the_hash_tells_configs_apart(a: Settings, b: Settings) -> None:
    assert (config_hash(a) == config_hash(b)) == (a == b)


def test_the_hash_is_of_values_not_of_how_they_were_written() -> None:
    assert config_hash(load("bound=1")) == config_hash(load("bound=1.0", preset="small"))
    assert config_hash(load("weights.a=1", "weights.b=2")) == config_hash(load("weights.b=2", "weights.a=1"))
    assert config_hash(Stage()) == hashlib.sha256(b'{"lr":0.001,"steps":100}').hexdigest()[:12]


@settings(max_examples=50)
@given(st.text(), st.text())
def test_any_set_is_taken_or_answered(key: str, value: str) -> None:
    try:
        config = load(f"{key}={value}")
    except UserError as error:
        assert str(error).startswith("label: ")
    else:
        assert isinstance(config, Settings)


@settings(max_examples=50)
@given(st.sampled_from(["seed", "bound", "sizes", "warm_up.lr", "weights", "stages.0", "top_k"]), st.text())
def test_any_value_is_taken_or_answered_by_the_name_of_its_key(key: str, value: str) -> None:
    try:
        load(f"{key}={value}")
    except UserError as error:
        assert key in str(error)


# ---- the list of keys ----


def test_describe_lists_every_key_as_set_takes_it() -> None:
    keys = {key.name: key for key in describe(Settings)}
    assert keys["seed"] == Key("seed", "whole number >= 0", 0, "seed of everything")
    assert keys["warm_up.steps"] == Key("warm_up.steps", "whole number >= 1", 300, "optimiser steps")
    assert keys["stages.1.lr"] == Key("stages.1.lr", "number > 0, <= 1", 1e-4, "learning rate")
    assert keys["extra.lr"].default == 1e-3
    expected = {
        "device": "cpu|cuda",
        "bound": "number or null",
        "folder": "path or null",
        "top_k": "whole number or auto",
        "sizes": "list of whole number >= 8",
        "weights": "group of number",
        "resume": "true|false",
    }
    assert {name: keys[name].type for name in expected} == expected
    assert describe(Data)[:4] == [
        Key("private.kind", "drawn|npz|zip", "drawn", ""),
        Key("private.people", "whole number >= 1", 5, "drawn: how many"),
        Key("private.size", "whole number", 64, "pixels"),
        Key("private.path", "path", REQUIRED, "npz|zip: the file"),
    ]
    assert [key.default for key in describe(Data)[4:]] == ["drawn", 7, 32, REQUIRED]
    assert describe(Needy) == [Key("data", "text", REQUIRED, "a folder")]


@pytest.mark.parametrize("key", [key for key in describe(Settings) if not key.name.startswith("extra")])
def test_every_listed_key_set_to_its_default_changes_nothing(key: Key) -> None:
    value = json.dumps(key.default, default=str)
    assert load(f"{key.name}={value}") == Settings()
    assert key.help


def test_did_you_mean_without_anything() -> None:
    assert did_you_mean("x", []) == "there is none"
