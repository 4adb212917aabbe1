"""The API's description is true: whoever makes requests from it gets what it says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the engine extra")
pytest.importorskip("httpx", reason="needs the test extra")

from engine.serving.api.openapi import openapi_document

# What a schema cannot say is refused with 400: a prompt that does not fit, fields that contradict.
CONFIGURATION = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "404", "429"]
"""


def test_the_document_is_whole_and_the_one_that_is_served(server: Any) -> None:
    with server.http() as http:
        served = http.get("/openapi.json").json()
        assert served == openapi_document("tiny")
        for path in served["paths"]:
            for method in ("GET", "POST"):
                answer = http.request(method, path.replace("{name}", "tiny"))
                assert (answer.status_code != 405) == (method.lower() in served["paths"][path])
    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(served)):
        assert name in served["components"]["schemas"]


@pytest.mark.slow
def test_schemathesis_finds_nothing(server: Any, tmp_path: Path) -> None:
    pytest.importorskip("schemathesis", reason="needs the test extra")
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(CONFIGURATION)
    options = ["--max-examples", "30", "--max-time", "90", "--seed", "1", "--no-color"]
    options += ["--request-timeout", "60"]
    command = Path(sys.executable).with_name("schemathesis")
    found = subprocess.run(
        [
            *(str(command), "--config-file", str(configuration), "run", *options),
            *("--header", "Authorization: Bearer secret-key", f"{server.url}/openapi.json"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout
