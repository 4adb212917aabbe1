"""docs/schema.md says what there is, and its examples run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from collectors.query.documentation import EXAMPLES, documentation
from collectors.query.macros import MACROS
from collectors.query.views import VIEWS

if TYPE_CHECKING:
    from collectors.query.session import Session

Small = Any  # the conftest's SmallStore


def test_the_page_is_what_the_definitions_say() -> None:
    path = Path(__file__).parents[3] / "docs" / "schema.md"
    if not path.exists():
        pytest.skip("the documentation is not beside the tests")
    assert path.read_text(encoding="utf-8") == documentation(), (
        "run: python -m collectors.query.documentation > docs/schema.md"
    )


@pytest.mark.parametrize("sql", [sql for _, sql in EXAMPLES])
def test_its_examples_run(session: Session, small: Small, sql: str) -> None:
    small.run("r")
    process = small.process(0)
    small.span(process, "step", 1, 0, 10)
    small.span(process, "forward", 1, 0, 5)
    small.add("sample", process, name="tokens", step=1, at=5, value=100)
    session.show(small.snapshot())
    assert session.query(sql).columns


def test_what_a_user_may_type_is_there(session: Session, small: Small) -> None:
    """The views and functions that are promised, and all of them answer about nothing."""
    promised = "runs hosts ranks spans collectives samples events requests iterations heartbeats"
    assert {*promised.split(), "findings", "stacks"} <= {view.name for view in VIEWS}
    called = "stragglers step_breakdown heatmap timeline goodput ttft slo"
    assert {macro.name for macro in MACROS} == set(called.split())
    small.run("empty")
    session.show(small.snapshot())
    for macro in MACROS:
        assert len(session.rows(f"FROM {macro.name}({macro.example})")) <= 1, macro.name
