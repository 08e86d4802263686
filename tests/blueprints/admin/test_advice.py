"""A failed call's page says what happened and what to do."""

import html
import re
from collections.abc import Callable

import pytest
from flask import Flask
from sqlalchemy import select

from blueprints.admin.advice import advice
from llmproxy.api_log.read_record import ReadRecord
from llmproxy.api_log.record import CallRecord
from llmproxy.errors import all_codes
from models import Project, Token, db
from tests.blueprints.admin.site import Browser
from tests.blueprints.admin.test_tokens import issue


def test_there_is_advice_for_every_error_of_the_proxys_own():
    def told(code: str):
        return advice(ReadRecord(b"", {"outcome": "refused", "status_code": 400, "error": {"code": code}}))

    assert [code for code in all_codes() if told(code) == told("of nobody")] == []


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"outcome": "complete", "status_code": 200}, None),
        ({"outcome": "client_closed", "status_code": 499}, "The caller hung up before anything came."),
        (
            {"outcome": "client_closed", "status_code": 499, "ttft_ms": 80.0},
            "The caller hung up in the middle of the response.",
        ),
        ({"outcome": "refused", "status_code": 400}, "The proxy could not forward the request."),
        ({"outcome": "refused", "status_code": 401}, "The call came without a token."),
        ({"outcome": "refused", "status_code": 405}, "The call had a method that is not forwarded."),
        (
            {"outcome": "upstream_failed", "status_code": 200, "ttft_ms": 80.0},
            "The response broke off on the way from the upstream.",
        ),
        ({"outcome": "upstream_timeout", "status_code": 504}, "The upstream did not answer in time."),
        (
            {
                "outcome": "upstream_timeout",
                "status_code": 200,
                "ttft_ms": 80.0,
                "error": {"code": "upstream_timeout"},
            },
            "The upstream fell silent in the middle of the response.",
        ),
        (
            {"outcome": "refused", "status_code": 429, "error": {"code": "rate_limit_exceeded", "type": "tokens"}},
            "The token had used all the LLM tokens that it may for now.",
        ),
        ({"outcome": "complete", "status_code": 429}, "The upstream's own limit was reached."),
        # The upstream's word, and not ours.
        (
            {"outcome": "complete", "status_code": 429, "error": {"code": "rate_limit_exceeded"}},
            "The upstream's own limit was reached.",
        ),
        (
            {"outcome": "complete", "status_code": 429, "error": {"code": "insufficient_quota"}},
            "The upstream's account has no credit left, or has spent what it may.",
        ),
        ({"outcome": "complete", "status_code": 400}, "The upstream turned the request down."),
        ({"outcome": "complete", "status_code": 403}, "The upstream does not let the project's key do this."),
        (
            {"outcome": "complete", "status_code": 404},
            "The upstream has no such thing, or the project's key may not see it.",
        ),
        ({"outcome": "complete", "status_code": 500}, "The upstream failed."),
        ({"outcome": "complete", "status_code": 503}, "The upstream was overloaded, or down."),
        (
            {"outcome": "complete", "status_code": 200, "secret": "retired"},
            "The caller used a secret that has been replaced.",
        ),
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
    ("code", "outcome", "page", "at"),
    [
        ("upstream_auth_failed", "upstream_failed", "/projects/{project}", "new_api_key"),
        ("project_inactive", "refused", "/projects/{project}", "switch"),
        ("rate_limit_exceeded", "refused", "/tokens/{token}", "rate_limit"),
        ("budget_exhausted", "refused", "/tokens/{token}", "limits"),
        ("model_not_allowed", "refused", "/rules?token_id={token}", "models"),
        ("endpoint_not_allowed", "refused", "/rules?token_id={token}", "endpoints"),
        ("address_not_allowed", "refused", "/rules?token_id={token}", "addresses"),
        ("concurrency_limit_exceeded", "refused", "/rules?token_id={token}", "concurrency"),
        ("model_not_priced", "refused", "/rules?token_id={token}", "unpriced"),
        ("parameter_not_allowed", "refused", "/rules?token_id={token}", "parameters"),
        ("token_expired", "refused", "/tokens/new?project_id={project}", None),
        ("upstream_unreachable", "upstream_failed", "/health", "upstreams"),
        ("auth_unavailable", "refused", "/health", "database"),
        ("log_unavailable", "refused", "/health", "disk"),
        (None, "client_closed", "/requests?outcome=client_closed&amp;token={token}", None),
    ],
)
def test_the_way_out_leads_to_the_very_control(
    app: Flask,
    browser: Browser,
    write_record: Callable[..., CallRecord],
    code: str | None,
    outcome: str,
    page: str,
    at: str | None,
):
    project = browser.create_project()
    token = issue(app, project).id
    told = {"project_id": project, "token_id": token, "outcome": outcome, "status_code": 502}
    record = write_record(**told, error={"code": code, "type": "x"} if code else None)

    text = browser.get(f"/admin/requests/{record.request_id}").text

    way_out = re.search(r'<a role="button" class="ghost" href="([^"#]+)(?:#(\w+))?">', text[text.index("advice") :])
    assert way_out and way_out[1] == "/admin" + page.format(project=project, token=token) and way_out[2] == at
    there = browser.get(html.unescape(way_out[1]))
    assert there.status_code == 200 and (at is None or there.text.count(f'id="{at}"') == 1)


NARROW = {
    "model_not_allowed": {"models": ["gpt-5*"]},
    "endpoint_not_allowed": {"endpoints": ["embeddings"]},
    "address_not_allowed": {"addresses": ["198.51.100.0/24"]},
    "concurrency_limit_exceeded": {"concurrency": 1},
    "model_not_priced": {"unpriced": "refuse"},
    "parameter_not_allowed": {"limits": {"n": 1}},
}


@pytest.mark.parametrize("of_project", [True, False], ids=["of the project", "of both"])
@pytest.mark.parametrize("code", NARROW)
def test_the_way_out_of_rules_leads_to_those_that_refused(
    app: Flask, browser: Browser, write_record: Callable[..., CallRecord], code: str, of_project: bool
):
    project = browser.create_project()
    token = issue(app, project).id
    wide = {"models": ["gpt*"], "endpoints": ["chat"], "addresses": ["192.0.2.0/24"], "unpriced": "allow"}
    with app.app_context():
        db.session.get(Project, project).rules = NARROW[code]
        db.session.scalars(select(Token).filter_by(id=token)).one().rules = wide if of_project else NARROW[code]
        db.session.commit()
    called = {"requested_model": "gpt-4o", "client_address": "192.0.2.7", "outcome": "refused", "status_code": 403}
    record = write_record(project_id=project, token_id=token, error={"code": code, "type": "x"}, **called)

    text = browser.get(f"/admin/requests/{record.request_id}").text

    owner = f"project_id={project}" if of_project else f"token_id={token}"
    assert f'href="/admin/rules?{owner}#' in text


def test_the_way_out_of_a_projects_budget_is_the_projects_page(
    app: Flask, browser: Browser, write_record: Callable[..., CallRecord]
):
    project = browser.create_project()
    token = issue(app, project).id
    browser.submit(f"/admin/limits/new?project_id={project}", "/admin/limits", amount="2.00")
    error = {"code": "budget_exhausted", "type": "insufficient_quota"}
    record = write_record(project_id=project, token_id=token, outcome="refused", status_code=429, error=error)

    assert f'href="/admin/projects/{project}#limits"' in browser.get(f"/admin/requests/{record.request_id}").text


def test_the_way_out_of_rules_for_a_token_that_is_over_is_its_page(
    app: Flask, browser: Browser, write_record: Callable[..., CallRecord]
):
    project = browser.create_project()
    token = issue(app, project).id
    browser.submit(f"/admin/tokens/{token}/revoke", f"/admin/tokens/{token}/revoke")
    error = {"code": "model_not_allowed", "type": "x"}
    record = write_record(project_id=project, token_id=token, outcome="refused", status_code=403, error=error)

    assert f'href="/admin/tokens/{token}#models"' in browser.get(f"/admin/requests/{record.request_id}").text


def test_what_is_gone_is_no_way_out(browser: Browser, write_record: Callable[..., CallRecord]):
    error = {"code": "upstream_auth_failed"}
    record = write_record(project_id="gone", outcome="upstream_failed", status_code=502, error=error)

    text = browser.get(f"/admin/requests/{record.request_id}").text

    assert "The upstream refused the project" in text and "Replace the key" not in text
