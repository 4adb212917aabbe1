"""``alerts.toml``: what is an alert, how often it is looked for, and who is told.

::

    [[alert]]
    name = "straggler"
    sql = "SELECT run_id, rank, ratio FROM stragglers('last') WHERE ratio > 1.2"  # alerts
    key = ["run_id", "rank"]  # rows of one key are one
    message = "rank {rank} of {run_id} is {ratio}x slower"
    notify = ["bell", {command = ["notify-send", "opsuite"]}, {webhook = "https://host/path"}]
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from collectors.configuration import Config, load_toml, resolve

if TYPE_CHECKING:
    from pathlib import Path

FILE = "alerts.toml"
_COLUMN = re.compile(r"\{(\w+)\}")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_. -]{0,62}[A-Za-z0-9_.-])?")


class Channel(Config):
    """A way to tell somebody: exactly one of these; ``"bell"`` is short for ``{bell = true}``."""

    bell: bool = Field(False, description="ring where `opsuite alerts list --follow` runs")
    command: list[str] = Field(
        default_factory=list,
        max_length=100,
        description="program and arguments; it gets the alert as JSON on stdin, and no shell",
    )
    webhook: str = Field("", description="http(s) URL that gets the alert as JSON by POST")
    timeout_s: float = Field(10.0, gt=0, le=60, description="time limit of one attempt")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:  # noqa: ANN401 - whatever the file says
        return {"bell": True} if data == "bell" else data

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(map(bool, (self.bell, self.command, self.webhook))) != 1:
            raise ValueError('write "bell", {command = [...]} or {webhook = "https://..."}')
        if self.command and not self.command[0]:
            raise ValueError("the command's program is empty")
        return self

    @field_validator("webhook")
    @classmethod
    def _is_url(cls, url: str) -> str:
        if url:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or _strange(url):
                raise ValueError("not an http:// or https:// URL")
            _ = parts.port  # raises where it is no number
        return url


class AlertRule(Config):
    """One rule: SQL whose rows are alerts."""

    name: str = Field(description="of the rule")
    sql: str = Field(min_length=1, max_length=20_000, description="one SELECT; a row is an alert")
    every_s: float = Field(10.0, ge=1, le=86_400, description="how often it is asked")
    cooldown_s: float = Field(
        300.0, ge=0, le=31_536_000, description="an alert that returns within this is not told"
    )
    repeat_s: float = Field(
        0.0, ge=0, le=31_536_000, description="tell again while it lasts, so often; 0: once"
    )
    key: list[str] = Field(
        default_factory=list,
        max_length=16,
        description="columns that tell one alert from another; empty: all of them",
    )
    message: str = Field(
        "", max_length=2000, description="text with {column}; empty: all columns and values"
    )
    severity: Literal["info", "warning", "critical"] = Field("warning", description="how bad")
    resolved: bool = Field(True, description="tell also when it is over")
    notify: list[Channel] = Field(
        default_factory=lambda: [Channel(bell=True)], max_length=8, description="who is told"
    )

    @field_validator("name")
    @classmethod
    def _is_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(
                "a name has 1 to 64 letters, digits, spaces and _ . -, begins with a letter or "
                "digit, and does not end with a space"
            )
        return name

    def check_columns(self, columns: list[str]) -> None:
        """ValueError where key or message name a column that the SQL does not return."""
        named = [*self.key, *_COLUMN.findall(self.message)]
        if missing := [column for column in named if column not in columns]:
            raise ValueError(
                f"there is no column {missing[0]!r} in what the SQL returns: {', '.join(columns)}"
            )

    def text(self, row: dict[str, Any]) -> str:
        """The message for one row, at most 500 characters, in one line."""
        if self.message:
            text = _COLUMN.sub(lambda found: str(row.get(found[1], "")), self.message)
        else:
            text = ", ".join(f"{column}={value}" for column, value in row.items())
        return " ".join(text.split())[:500]


class AlertRules(Config):
    """All rules of a home."""

    alert: list[AlertRule] = Field(default_factory=list, max_length=200, description="the rules")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [rule.name for rule in self.alert]
        if len(set(names)) < len(names):
            double = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two alerts are named {double!r}")
        return self


def load_rules(path: Path) -> list[AlertRule]:
    """The rules in ``path``; ConfigError says what is wrong with them."""
    return resolve(AlertRules, [(str(path), load_toml(path))]).value.alert


def _strange(url: str) -> bool:
    return any(character <= " " or character == "\x7f" for character in url)
