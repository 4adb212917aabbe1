"""Configuration: layers, where each value came from, and messages one can act on."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from collectors.configuration import (
    Config,
    apply_overrides,
    describe_toml,
    load_toml,
    render_toml,
    resolve,
)
from collectors.errors import ConfigError
from collectors.toml import toml_document


class Model(Config):
    """The model.

    Not shown.
    """

    hidden_size: int = Field(default=64, ge=1, description="width of the residual stream")
    names: tuple[str, ...] = Field(default=(), description="of the layers")


class Training(Config):
    steps: int = Field(description="optimizer steps")
    rate: float = Field(default=1e-3, gt=0, description="peak learning rate\nafter warm-up")
    data: Path | None = Field(default=None, description="a corpus")
    model: Model = Model()


def test_later_layers_win_and_are_named() -> None:
    resolved = resolve(
        Training,
        [
            ("a.toml", {"steps": 3, "rate": 1, "model": {"names": ["x"], "hidden_size": 8}}),
            ("--set", apply_overrides({}, ["model.hidden_size=16", "data=/corpus"])),
        ],
    )
    assert resolved.value == Training(
        steps=3, rate=1.0, data=Path("/corpus"), model=Model(hidden_size=16, names=("x",))
    )
    assert resolved.provenance == {
        "steps": "a.toml",
        "rate": "a.toml",
        "data": "--set",
        "model.hidden_size": "--set",
        "model.names": "a.toml",
    }
    text = render_toml(resolved.value, resolved.provenance)
    assert "hidden_size = 16  # --set" in text
    assert resolve(Training, [("again", tomllib.loads(text))]).value == resolved.value


def test_a_resolved_configuration_is_frozen() -> None:
    value = resolve(Training, [("a.toml", {"steps": 3})]).value
    with pytest.raises(ValidationError):
        value.steps = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a=1", {"a": 1}),
        ("a = 1e-3", {"a": 1e-3}),
        ("a=true", {"a": True}),
        ("a=[1, 2]", {"a": [1, 2]}),
        ("a=plain words", {"a": "plain words"}),
        ('a="1"', {"a": "1"}),
        ("a=", {"a": ""}),
        ("a=x=y", {"a": "x=y"}),
        ("a=1\nb=2", {"a": "1\nb=2"}),
        ("a.b.c=1", {"a": {"b": {"c": 1}}}),
    ],
)
def test_overrides_are_toml_or_plain_text(override: str, expected: dict[str, Any]) -> None:
    assert apply_overrides({}, [override]) == expected


@pytest.mark.parametrize("override", ["a", "=1", "a..b=1", ".a=1"])
def test_an_override_that_sets_nothing(override: str) -> None:
    with pytest.raises(ConfigError, match="sets nothing"):
        apply_overrides({}, [override])
    with pytest.raises(ConfigError, match="no section"):
        apply_overrides({"a": 1}, ["a.b=2"])


@pytest.mark.parametrize(
    ("file", "overrides", "parts"),
    [
        ({}, [], ["steps is missing", "set steps"]),
        ({"steps": "3"}, [], ['steps = "3"', "valid integer", "a.toml"]),
        ({"steps": True}, [], ["steps = true", "valid integer"]),
        ({"steps": 1.5}, [], ["steps = 1.5", "valid integer"]),
        ({"steps": 1, "rate": 0}, [], ["rate = 0", "greater than 0"]),
        ({"steps": 1}, ["rate=-1"], ["rate = -1", "where: --set"]),
        ({"steps": 1, "stepz": 1}, [], ["unknown key 'stepz'", "did you mean steps?"]),
        (
            {"steps": 1},
            ["model.hiden_size=3"],
            ["unknown key 'model.hiden_size'", "did you mean model.hidden_size?", "--set"],
        ),
        ({"steps": 1, "zzz": 1}, [], ["known here: steps, rate, data, model"]),
        ({"steps": 1, "model": 3}, [], ["model = 3"]),
        ({"steps": 1, "model": {"names": ["a", 1]}}, [], ["model.names[1] = 1", "valid string"]),
        ({"steps": "x", "rate": -1}, [], ['steps = "x"', "rate = -1", "correct steps"]),
    ],
)
def test_messages_say_what_where_and_what_to_do(
    file: dict[str, Any], overrides: list[str], parts: list[str]
) -> None:
    layers = [("a.toml", file), ("--set", apply_overrides({}, overrides))]
    with pytest.raises(ConfigError) as error:
        resolve(Training, layers)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a = 1\nb = ]", "line 2, column 5"),
        (b"a = 1\na = 2", "malformed TOML"),
        (b"a = " + b"[" * 100_000, "nested too deeply"),
        (b"a = '\xff'", "not UTF-8"),
        (None, "no such configuration file"),
    ],
)
def test_files_that_are_no_toml(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load_toml(path)
    assert message in error.value.what
    assert error.value.where == str(path)
    with pytest.raises(ConfigError, match="directory"):
        load_toml(tmp_path)


def test_the_example_documents_every_field_and_is_a_configuration() -> None:
    text = describe_toml(Training)
    for line in ("# optimizer steps", "# after warm-up", "# The model.", "# of the layers"):
        assert line in text.splitlines()
    assert "Not shown" not in text
    data = tomllib.loads(text) | {"steps": 1}
    assert resolve(Training, [("example", data)]).value == Training(steps=1)


KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
VALUES = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_what_is_written_as_toml_is_read_back(data: dict[str, Any]) -> None:
    assert tomllib.loads(toml_document(data)) == data


def test_what_toml_cannot_say_of_numbers() -> None:
    assert math.isnan(tomllib.loads(toml_document({"a": math.nan}))["a"])
    assert toml_document({"a": None, "b": -math.inf}) == "b = -inf\n"
