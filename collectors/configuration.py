"""The one way to configure: TOML layers and ``--set`` overrides into frozen models.

>>> class Training(Config):
...     steps: int = Field(200, ge=1, description="optimizer steps")
>>> resolved = resolve(Training, [("run.toml", load_toml(path)), ("--set", {"steps": 3})])
>>> resolved.value.steps, resolved.provenance["steps"]
(3, '--set')
"""

from __future__ import annotations

import copy
import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticUndefined

from collectors.errors import ConfigError
from collectors.toml import toml_key, toml_value

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

OVERRIDES = "--set"
DEFAULT = "default"
_SHOWN_ERRORS = 5

Layer = tuple[str, Mapping[str, Any]]


class Config(BaseModel):
    """A part of the configuration, owned by the component that it configures.

    Frozen, keyword-only, and without room for unknown keys. Describe every field: the descriptions
    are the documentation (:func:`describe_toml`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Resolved(Generic[ModelT]):
    """A configuration, and for each dotted key where its value came from."""

    value: ModelT
    provenance: dict[str, str]


def load_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; a ConfigError says what keeps it from being one."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        what, remedy = "there is no such configuration file", "check the path"
    except IsADirectoryError:
        what, remedy = "the configuration is a directory", "give a TOML file"
    except UnicodeDecodeError as error:
        what, remedy = f"not UTF-8 text (byte {error.start})", "save the file as UTF-8"
    except tomllib.TOMLDecodeError as error:
        what, remedy = f"malformed TOML: {error}", "correct the file there"
    except RecursionError:
        what, remedy = "malformed TOML: nested too deeply", "correct the file"
    except OSError as error:
        what = f"the configuration cannot be read: {error.strerror}"
        remedy = "check the path and its permissions"
    raise ConfigError(what, where=str(path), remedy=remedy)


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of ``data`` with each "a.b=value" set; a value that is no TOML is a plain string."""
    result: dict[str, Any] = copy.deepcopy(dict(data))
    for override in overrides:
        dotted, equals, text = override.partition("=")
        keys = [key.strip() for key in dotted.split(".")]
        if not equals or not all(keys):
            raise ConfigError(
                f"{override!r} sets nothing",
                where=OVERRIDES,
                remedy="write --set section.key=value",
            )
        table = result
        for key in keys[:-1]:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise ConfigError(
                    f"{dotted!r}: {key!r} is a value and no section",
                    where=OVERRIDES,
                    remedy="override the value itself, or the whole section",
                )
        table[keys[-1]] = _parse_value(text)
    return result


def _parse_value(text: str) -> Any:  # noqa: ANN401 - any TOML value
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if set(parsed) == {"value"} else text


def resolve(model_class: type[ModelT], layers: Sequence[Layer]) -> Resolved[ModelT]:
    """Merge the layers, later ones over earlier ones, and validate the result.

    Values must have the type that the field says: no "3" for 3, no true for 1.

    Raises:
        ConfigError: names each wrong key, its value, what is allowed and where it was set.
    """
    merged: dict[str, Any] = {}
    for _, data in layers:
        _merge(merged, data)
    try:
        # As JSON: strict about types, and a list still makes a tuple and a string a path.
        value = model_class.model_validate_json(json.dumps(merged, default=str), strict=True)
    except ValidationError as error:
        raise _config_error(model_class, layers, error) from error
    provenance = {".".join(key): _source(layers, key) or DEFAULT for key, _ in _leaves(value, ())}
    return Resolved(value=value, provenance=provenance)


def render_toml(value: BaseModel, provenance: Mapping[str, str]) -> str:
    """The resolved configuration as TOML; a comment behind each value says where it came from."""
    lines: list[str] = []
    section: tuple[str, ...] = ()
    for key, leaf in _leaves(value, ()):
        section = _open_section(lines, section, key[:-1])
        comment = provenance.get(".".join(key), DEFAULT)
        if leaf is None:
            lines.append(f"# {toml_key(key[-1])} is not set  # {comment}")
        else:
            lines.append(f"{toml_key(key[-1])} = {toml_value(_plain(leaf))}  # {comment}")
    return "\n".join(lines) + "\n"


def describe_toml(model_class: type[BaseModel]) -> str:
    """A documented example: every field with its description and default value."""
    lines: list[str] = []
    _describe(model_class, (), lines)
    return "\n".join(lines).strip() + "\n"


def _describe(model_class: type[BaseModel], path: tuple[str, ...], lines: list[str]) -> None:
    nested: list[tuple[str, type[BaseModel], FieldInfo]] = []
    for name, field in model_class.model_fields.items():
        inner = _nested_model(field)
        if inner is not None:
            nested.append((name, inner, field))
            continue
        if field.description:
            lines += [f"# {line}" for line in field.description.splitlines()]
        default = field.get_default(call_default_factory=True)
        if default is PydanticUndefined:
            lines.append(f"# {toml_key(name)} =   (must be given)")
        elif default is None:
            lines.append(f"# {toml_key(name)} =   (not set)")
        else:
            lines.append(f"{toml_key(name)} = {toml_value(_plain(default))}")
    for name, inner, field in nested:
        lines.append("")
        if text := field.description or (inner.__doc__ or "").strip().split("\n\n")[0]:
            lines += [f"# {line.strip()}" for line in text.splitlines()]
        lines.append(f"[{'.'.join(map(toml_key, (*path, name)))}]")
        _describe(inner, (*path, name), lines)


def _nested_model(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _leaves(model: BaseModel, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    """(key path, value) of every field that is no model itself, plain fields first."""
    plain, nested = [], []
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            nested += _leaves(value, (*path, name))
        else:
            plain.append(((*path, name), value))
    return plain + nested


def _open_section(
    lines: list[str], current: tuple[str, ...], wanted: tuple[str, ...]
) -> tuple[str, ...]:
    if wanted != current:
        lines += ["", f"[{'.'.join(map(toml_key, wanted))}]"]
    return wanted


def _plain(value: Any) -> Any:  # noqa: ANN401 - any field's value
    """A field's value as TOML knows it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def _merge(into: dict[str, Any], data: Mapping[str, Any]) -> None:
    for key, value in data.items():
        if isinstance(value, Mapping):
            inner = into.get(key)
            into[key] = dict(inner) if isinstance(inner, dict) else {}
            _merge(into[key], value)
        else:
            into[key] = value


def _source(layers: Sequence[Layer], key: Sequence[str]) -> str | None:
    """Which layer had the last word on ``key``."""
    for source, data in reversed(layers):
        value: Any = data
        for part in key:
            if not isinstance(value, Mapping):
                return source  # it set a whole section, or a list, of which this is a part
            if part not in value:
                break
            value = value[part]
        else:
            return source
    return None


# -- errors --------------------------------------------------------------------------------------


def _config_error(
    model_class: type[BaseModel], layers: Sequence[Layer], error: ValidationError
) -> ConfigError:
    details = error.errors(include_url=False)
    described = [_describe_error(model_class, detail) for detail in details[:_SHOWN_ERRORS]]
    sources = [_source(layers, _key_path(detail)) for detail in details[:_SHOWN_ERRORS]]
    if len(details) > _SHOWN_ERRORS:
        described.append((f"and {len(details) - _SHOWN_ERRORS} more", ""))
    default = layers[0][0] if layers else ""
    return ConfigError(
        "; ".join(what for what, _ in described),
        where=", ".join(dict.fromkeys(source or default for source in sources)),
        remedy="; ".join(dict.fromkeys(remedy for _, remedy in described if remedy)),
    )


def _key_path(detail: ErrorDetails) -> list[str]:
    return [part for part in detail["loc"] if isinstance(part, str)]


def _describe_error(model_class: type[BaseModel], detail: ErrorDetails) -> tuple[str, str]:
    """What is wrong with one key, and what to do."""
    path = _key_path(detail)
    indices = "".join(f"[{part}]" for part in detail["loc"] if isinstance(part, int))
    key = ".".join(path) + indices
    if detail["type"] == "extra_forbidden":
        return f"unknown key {key!r}", _suggest(model_class, path)
    if detail["type"] == "missing":
        return f"{key} is missing", f"set {key}"
    allowed = detail["msg"].removeprefix("Value error, ")
    if not path:  # parts that do not fit together: the message names them
        return allowed, "correct one of them"
    return (
        f"{key} = {_short(detail['input'])}: {allowed[:1].lower()}{allowed[1:]}",
        f"correct {key}",
    )


def _short(value: Any) -> str:  # noqa: ANN401 - whatever was given
    text = toml_value(value) if value is not None else "null"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _suggest(model_class: type[BaseModel], path: Sequence[str]) -> str:
    """The nearest known keys, and else all of that section."""
    section: type[BaseModel] | None = model_class
    for part in path[:-1]:
        field = section.model_fields.get(part) if section else None
        section = _nested_model(field) if field else None
    if section is None:
        return "remove it"
    known = list(section.model_fields)
    near = difflib.get_close_matches(path[-1], known, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join('.'.join((*path[:-1], name)) for name in near)}?"
    return f"known here: {', '.join(known)}"
