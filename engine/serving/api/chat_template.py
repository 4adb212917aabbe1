"""A model's own chat template: Jinja, rendered as transformers renders it, and in a sandbox.

Which file counts, what a template may call and how it is set up follow transformers'
``utils/chat_template_utils.py`` and ``tokenization_utils_base.py``. What clients send is data for
the template, never part of it.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock
from jinja2.sandbox import ImmutableSandboxedEnvironment

from collectors.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from jinja2.nodes import Node
    from jinja2.parser import Parser
    from jinja2.runtime import Macro

_FILE = "chat_template.jinja"
_CONFIG = "tokenizer_config.json"
_MAX_BYTES = 4 << 20
_LONGEST_REASON = 200
_SPECIAL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


class TemplateError(Exception):
    """The template does not take these messages; its text is for the client."""


class ChatTemplate:
    """Of one model.

    Args:
        source: Jinja.
        special: texts of tokens that it may name, as ``bos_token``.

    Raises:
        ValueError: it is no template.
    """

    def __init__(self, source: str, special: Mapping[str, str]) -> None:
        try:
            self._template = _environment().from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ValueError(str(error)) from None
        self._special = dict(special)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The conversation, and the beginning of the assistant's next turn.

        Raises:
            TemplateError: the template refuses it, or fails.
        """
        try:
            return self._template.render(
                **self._special,
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=True,
            )
        except _Refusal as refusal:
            raise TemplateError(str(refusal)[:_LONGEST_REASON]) from None
        except Exception as error:  # a template computes: it may fail in any way
            raise TemplateError("the model's chat template cannot write them") from error


def load_chat_template(directory: Path) -> ChatTemplate | None:
    """``chat_template.jinja``, or else ``chat_template`` of tokenizer_config.json; None: neither.

    Raises:
        DataError: a file cannot be read, or has no usable template.
    """
    config = _read_config(directory / _CONFIG)
    path = directory / _FILE
    source = _read(path) if path.is_file() else _default(config.get("chat_template"))
    if source is None:
        return None
    try:
        return ChatTemplate(source, _special_tokens(config))
    except ValueError as error:
        raise DataError(
            f"the model's chat template is not usable: {error}",
            where=str(path if path.is_file() else directory / _CONFIG),
            remedy="fetch the file again",
        ) from None


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"more than {_MAX_BYTES} bytes", where=str(path))
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"not readable: {error}", where=str(path)) from None


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}", where=str(path)) from None
    if not isinstance(config, dict):
        raise DataError("not a JSON object", where=str(path))
    return config


def _default(given: object) -> str | None:
    """A template, or of several by name the one that is called so."""
    if isinstance(given, list):
        named = {each.get("name"): each.get("template") for each in given if isinstance(each, dict)}
        given = named.get("default")
    return given if isinstance(given, str) else None


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """A token is given as its text, or as an object that describes it."""
    found = {}
    for name in (f"{kind}_token" for kind in _SPECIAL):
        given = config.get(name)
        text = given.get("content") if isinstance(given, dict) else given
        if isinstance(text, str):
            found[name] = text
    return found


class _Refusal(jinja2.TemplateError):
    """``raise_exception`` was called."""


class _Generation(Extension):
    """``{% generation %}`` marks what the assistant wrote, for training; nothing changes here."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_as_it_is"), [], [], body).set_lineno(line)

    def _as_it_is(self, caller: Macro) -> str:
        return caller()


class _Dict:
    """``dict`` without its attributes, which lead elsewhere."""

    def __call__(self, *pairs: Any, **named: Any) -> dict[Any, Any]:  # noqa: ANN401
        return dict(*pairs, **named)

    def fromkeys(self, *given: Any) -> dict[Any, Any]:  # noqa: ANN401
        return dict.fromkeys(*given)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    environment.globals["dict"] = _Dict()
    return environment


def _to_json(
    value: Any,  # noqa: ANN401 - whatever the template has
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own escapes what means something in HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: object) -> NoReturn:
    raise _Refusal(str(message))


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)  # local, as in transformers
