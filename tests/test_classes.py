"""Names of classes: as YAML reads them, and as the people's folders are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentprint.config import load_config
from latentprint.data.classes import order_of
from latentprint.errors import UserError
from latentprint.label.presets import LabelConfig


@pytest.mark.parametrize(("classes", "names", "order"), [
    (["b", "a"], ["a", "b"], [1, 0]),
    (["1", "10", "11", "2"], ["1", "10", "11", "2"], [0, 1, 2, 3]),
    (["7", "10"], ["007", "10"], [0, 1]),
    (["7", "07"], ["07", "7"], [1, 0]),
    (["Jose\u0301", "小明"], ["小明", "Jos\u00e9"], [1, 0]),
    (["dan, the [1]", "0.05", 'say "x"'], ["0.05", "dan, the [1]", 'say "x"'], [1, 0, 2])])
def test_the_person_of_each_class(classes: list[str], names: list[str], order: list[int]) -> None:
    assert order_of(classes, names, "photos") == order


@pytest.mark.parametrize(("classes", "message"), [
    (["ann", "bob", "zed"], r"no photos of 'zed' in photos, and every class needs some: add them .*"
                            r"; 'cid' of photos is not among the 3 classes"),
    (["ann", "bob", "cid", "zed", "yan"], "no photos of 'zed', 'yan' in photos"),
    (["ann"], "^victim.classes: 'bob', 'cid' of photos are not among the 1 classes: name all"),
    (["ann", "bob", "cid", "ann"], "'ann' is named twice"),
    ([*"qrstu"], "no photos of 'q', 'r', 's' and 2 more in photos")])
def test_classes_and_people_that_differ_are_named(classes: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        order_of(classes, ["ann", "bob", "cid"], "photos")


def test_a_number_that_could_be_two_people_is_nobody() -> None:
    with pytest.raises(UserError, match="no photos of '7'"):
        order_of(["7"], ["07", "007"], "photos")


def read(tmp_path: Path, classes: str) -> list[str] | None:
    (tmp_path / "a.yaml").write_text(f"victim:\n  classes: {classes}\n")
    return load_config(LabelConfig, file=tmp_path / "a.yaml").victim.classes


def test_names_that_yaml_reads_as_numbers(tmp_path: Path) -> None:
    given, expected = "[1, 10, 007, 1.5, '2', ann, 2020-01-01]", ["1", "10", "7", "1.5", "2", "ann", "2020-01-01"]
    assert read(tmp_path, given) == expected
    assert read(tmp_path, "null") is None
    with pytest.raises(UserError, match=r"'victim.classes': one of the names reads as false in YAML; put such names"):
        read(tmp_path, "[yan, no]")
    with pytest.raises(UserError, match="reads as null"):
        read(tmp_path, "[yan, ~]")
    with pytest.raises(UserError, match=r"'victim\.classes'"):
        read(tmp_path, "7")
