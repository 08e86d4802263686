"""The management API and `/self` against their document, as a generator of clients and a fuzzer read it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from blueprints import shapes
from tests.http_by_hand import call
from tests.servers import DEPLOYED, MANAGEMENT_TOKEN, Server

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
# Rules of the product that no document can state (one of two fields, a name that is taken) may refuse what fits it.
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    "negative_data_rejection", "unsupported_method",
)  # fmt: skip


@pytest.fixture
def server(tmp_path: Path):
    with Server(DEPLOYED, tmp_path / "data") as server:
        server.issue_token()
        server.leave_records(3)
        yield server


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory):
    with Server(DEPLOYED, tmp_path_factory.mktemp("shared") / "data") as server:
        server.create_project(name="shop")
        yield server


def test_every_route_of_operators_is_described(server: Server) -> None:
    status, document = server.manage("GET", "/openapi.json")

    assert status == 200 and document["openapi"] == "3.1.0"
    described = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert described == {
        ("/manage/projects", "post"), ("/manage/projects", "get"), ("/manage/projects/{project_id}", "get"),
        ("/manage/projects/{project_id}", "patch"), ("/manage/projects/{project_id}", "delete"),
        ("/manage/projects/{project_id}/revoke", "post"), ("/manage/tokens", "post"), ("/manage/tokens", "get"),
        ("/manage/tokens", "delete"), ("/manage/tokens/{token_id}", "get"), ("/manage/tokens/{token_id}", "patch"),
        ("/manage/tokens/{token_id}", "delete"), ("/manage/tokens/{token_id}/rotate", "post"),
        ("/manage/meters", "get"), ("/manage/meters", "post"), ("/manage/meters/{meter_id}", "get"),
        ("/manage/meters/{meter_id}", "patch"), ("/manage/meters/{meter_id}", "delete"),
        ("/manage/meters/{meter_id}/reset", "post"), ("/manage/usage", "get"), ("/manage/prices", "get"),
        ("/self", "get"),
    }  # fmt: skip


def test_what_checks_the_input_is_what_is_described(server: Server) -> None:
    _, document = server.manage("GET", "/openapi.json")
    shapes = document["components"]["schemas"]

    # Of two schemas with one name, the second gets a number.
    assert [name for name in shapes if name[-1].isdigit()] == []
    assert shapes["NewToken"]["required"] == ["project_id"]  # and one of two ends
    assert shapes["NewToken"]["properties"]["duration_hours"] == {"type": "integer", "minimum": 1, "maximum": 8760}
    assert "required" not in shapes["ProjectChange"] and shapes["ProjectChange"]["additionalProperties"] is False


_LIMITS = {
    "max_output_tokens": 100, "require_max_output": True, "n": 1, "service_tier": ["auto"], "tools": [],
    "store": False, "reasoning_effort": ["low"], "max_body_bytes": 1000, "background": False,
}  # fmt: skip
_RULES = {
    "models": ["gpt-5*"], "endpoints": ["chat", "GET models/*"], "addresses": ["10.0.0.0/8", "::1"], "concurrency": 2,
    "unpriced": "allow", "mode": "report", "limits": _LIMITS,
}  # fmt: skip


@pytest.mark.parametrize(
    ("body", "fits"),
    [
        ({"rules": _RULES}, True),
        ({"rules": {"preset": "inference"}}, True),
        ({"rules": None}, True),
        ({"rules": {}}, True),
        ({"budget": {"usd": "2.50", "per": "day", "models": ["gpt-5"]}}, True),
        ({"budget": {"tokens": 0, "per": "hour"}}, True),
        ({"meters": [{"unit": "usd", "amount": "1", "period": "day"}]}, True),
        ({"rules": []}, False),
        ({"rules": {"modles": ["gpt-5"]}}, False),
        ({"rules": {"models": []}}, False),
        ({"rules": {"models": ["a b"]}}, False),
        ({"rules": {"models": ["*****"]}}, False),
        ({"rules": {"endpoints": ["chats"]}}, False),
        ({"rules": {"endpoints": ["chat"], "preset": "inference"}}, False),
        ({"rules": {"concurrency": 0}}, False),
        ({"rules": {"mode": "off"}}, False),
        ({"rules": {"limits": {"n": -1}}}, False),
        ({"rules": {"limits": {"store": 1}}}, False),
        ({"rules": {"limits": {"tools": ["Web Search"]}}}, False),
        ({"rules": {"limits": None}}, False),
        ({"budget": {"usd": 2.5, "per": "day"}}, False),
        ({"budget": {"usd": "1e3", "per": "day"}}, False),
        ({"budget": {"tokens": "5", "per": "day"}}, False),
        ({"budget": {"tokens": 5, "per": "day", "models": ["a,b"]}}, False),
        ({"meters": [{"unit": "usd", "amount": -1, "period": "day"}]}, False),
    ],
)
def test_what_is_accepted_fits_the_description_and_what_does_not_fit_is_refused(
    shared_server: Server, body: dict[str, Any], fits: bool
) -> None:
    _, document = shared_server.manage("GET", "/openapi.json")
    schema = {"$ref": "#/components/schemas/NewToken", "components": document["components"]}
    whole = {"project_id": shared_server.manage("GET", "/projects")[1]["data"][0]["id"], "duration_hours": 1, **body}

    assert Draft202012Validator(schema).is_valid(whole) is fits
    assert shared_server.manage("POST", "/tokens", whole)[0] == (201 if fits else 400)


def test_what_a_holder_is_told_is_what_is_described(server: Server) -> None:
    _, document = server.manage("GET", "/openapi.json")
    token = server.issue_token(budget={"usd": "1.00", "per": "day"}, rules={"endpoints": ["chat"]})
    told = call(server.url, "GET", "/self", token.bearer)
    described = document["paths"]["/self"]["get"]

    assert told.status == 200 and told.json["limits"] and described["security"] == [{"witheringToken": []}]
    assert shapes.Holder().validate(told.json) == {}
    assert set(told.json) == set(document["components"]["schemas"]["Holder"]["properties"])


@pytest.mark.skipif(not SCHEMATHESIS.exists(), reason="schemathesis is not installed")
def test_nothing_that_a_fuzzer_sends_gets_an_answer_that_is_not_described(server: Server) -> None:
    command = [
        SCHEMATHESIS, "run", f"{server.url}/manage/openapi.json", "-H", f"Authorization: Bearer {MANAGEMENT_TOKEN}",
        "--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--max-examples", "8",
        "--max-time", "20", "--generation-deterministic", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-500:]
    assert "Traceback" not in server.output()
