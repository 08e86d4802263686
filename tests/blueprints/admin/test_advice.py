"""A failed call's page says what happened and what to do."""

import uuid
from collections.abc import Callable

import pytest

from blueprints.admin.advice import advice, own_codes
from llmproxy.api_log.read_record import ReadRecord
from llmproxy.api_log.record import CallRecord
from llmproxy.errors import all_codes
from tests.blueprints.admin.site import Browser


def test_there_is_advice_for_every_error_of_the_proxys_own():
    assert own_codes() == all_codes()


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"outcome": "complete", "status_code": 200}, None),
        ({"outcome": "client_closed", "status_code": 499}, "The caller hung up before the end."),
        ({"outcome": "refused", "status_code": 400}, "The proxy could not forward the request."),
        ({"outcome": "upstream_failed", "status_code": 200}, "The response broke off on the way from the upstream."),
        ({"outcome": "complete", "status_code": 429}, "The upstream's own limit was reached."),
        # The upstream's word, and not ours.
        (
            {"outcome": "complete", "status_code": 429, "error": {"code": "rate_limit_exceeded"}},
            "The upstream's own limit was reached.",
        ),
        ({"outcome": "complete", "status_code": 404}, "The upstream turned the request down."),
        ({"outcome": "complete", "status_code": 503}, "The upstream failed."),
        (
            {"outcome": "complete", "status_code": 200, "failed_inside": True, "error": {"code": "x"}},
            "The upstream told of an error within its response.",
        ),
    ],
)
def test_a_record_is_told_in_a_sentence(fields, what):
    told = advice(ReadRecord(b"", fields))

    assert (told and told.what) == what


@pytest.mark.parametrize(
    ("code", "outcome", "way_out"),
    [
        ("upstream_auth_failed", "upstream_failed", '/projects/{project}">Replace the key</a>'),
        ("project_inactive", "refused", '/projects/{project}">Look at the project</a>'),
        ("token_expired", "refused", '/tokens/new?project_id={project}">Issue a token</a>'),
        ("upstream_unreachable", "upstream_failed", '/health">Try the upstream</a>'),
    ],
)
def test_the_way_out_is_a_button(
    browser: Browser, write_record: Callable[..., CallRecord], code: str, outcome: str, way_out: str
):
    project, request_id = browser.create_project(), str(uuid.uuid4())
    error = {"code": code, "type": "x"}
    write_record(request_id=request_id, project_id=project, outcome=outcome, status_code=502, error=error)

    text = browser.get(f"/admin/requests/{request_id}").text

    assert f'href="/admin{way_out.format(project=project)}' in text and f"<code>{code}</code>" in text


def test_what_is_gone_is_no_way_out(browser: Browser, write_record: Callable[..., CallRecord]):
    record = write_record(project_id="gone", outcome="upstream_failed", error={"code": "upstream_auth_failed"})

    text = browser.get(f"/admin/requests/{record.request_id}").text

    assert "The upstream refused the project" in text and "Replace the key" not in text
