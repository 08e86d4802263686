"""Overview, requests, audit and health; and that nothing anybody wrote becomes markup."""

import csv
import html
import html.parser
import io
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask
from sqlalchemy.exc import OperationalError

from accounting.rollup import Rollup, UsageSums, node_id
from control import projects, tokens
from control.audit import Actor
from database import schema
from llmproxy.api_log.record import CallRecord
from models import db
from services import Services
from tests.blueprints.admin.site import KEY, Browser, Script
from tests.databases import execute

TILE = re.compile(r'<h2>(?:<a [^>]+>)?([^<]+)(?:</a>)?</h2><p class="figure">([^<]+)</p><p class="quiet">(.*?)</p>')
JSON = {"Accept": "application/json"}
Write = Callable[..., CallRecord]


def roll_up(app: Flask) -> None:
    with app.app_context():
        settings = Services.of(app).settings
        rollup = Rollup(settings.log_path, UsageSums(db.engine, node_id(settings.data_dir)))
        while rollup.step():
            pass
        rollup.close()


def tiles_of(text: str) -> list[tuple[str, str, str]]:
    """Titles, figures and words of a page's tiles, without links."""
    return [(title, figure, re.sub("<[^>]+>", "", words)) for title, figure, words in TILE.findall(text)]


def link_to_record(text: str) -> str:
    return html.unescape(re.search(r'href="(/admin/requests/[^"]+at=[^"]+)"', text)[1])


# Overview


def test_a_new_proxy_says_what_to_do_first(browser: Browser):
    text = browser.get("/admin/").text

    assert "Get started" in text and 'href="/admin/projects/new"' in text


@pytest.mark.parametrize("span", ["24h", "7d", "30d", "nonsense", ""])
def test_the_overview_adds_up_what_went_through(app: Flask, browser: Browser, write_record: Write, span: str):
    project = browser.create_project("Busy project")
    for _ in range(3):
        write_record(project_id=project)
    write_record(
        status_code=429,
        outcome="refused",
        error={"code": "rate_limit_exceeded", "type": "requests"},
        metadata=None,
        upstream_status=None,
        project_id=project,
    )
    write_record(status_code=500, project_id=project, metadata=None)
    roll_up(app)

    text = browser.get(f"/admin/?span={span}").text

    tiles = {title: (figure, words) for title, figure, words in tiles_of(text)}
    assert tiles["Requests"] == ("5", "1 refused (20.0%)")
    assert tiles["Errors"] == ("1", "25.0% of what was forwarded")
    assert tiles["LLM tokens"][0] == "21"
    assert re.search(rf'href="/admin/projects/{project}\?span=(24h|7d|30d)">Busy project</a>', text)
    assert "<code>rate_limit_exceeded</code>" in text and "gpt-4o-mini" in text
    assert "Get started" not in text


def test_what_the_overview_shows_leads_to_the_requests_that_explain_it(
    app: Flask, browser: Browser, write_record: Write
):
    project = browser.create_project("Busy project")
    for name in ("well", "well", "well"):
        write_record(project_id=project, endpoint=f"/v1/{name}")
    error = {"code": "rate_limit_exceeded", "type": "requests"}
    write_record(
        project_id=project, status_code=429, outcome="refused", metadata=None, endpoint="/v1/no", error=error
    )
    write_record(status_code=500, metadata=None, endpoint="/v1/broken")
    roll_up(app)

    text = browser.get("/admin/").text

    def led_to(pattern: str) -> list[str]:
        page = browser.get(html.unescape(re.search(pattern, text)[1])).text
        return sorted(re.findall(r'<code class="call" title="/v1/(\w+)">', page))

    everything = ["broken", "no", "well", "well", "well"]
    assert led_to(r'<h2><a href="([^"]+)">Requests<') == everything
    assert led_to(r'<h2><a href="([^"]+)">LLM tokens<') == led_to(r'<h2><a href="([^"]+)">Cost<') == everything
    assert led_to(r'<h2><a href="([^"]+)">Errors<') == ["broken"]
    assert led_to(r'<h2><a href="([^"]+)">Median duration<') == everything
    assert led_to(r'<a href="([^"]+)">1 refused<') == ["no"]
    assert led_to(r'<a href="([^"]+)"><code>rate_limit_exceeded<') == ["no"]
    assert led_to(r'<a class="plain" href="([^"]+project_id[^"]+)">4<') == ["no", "well", "well", "well"]
    assert f'href="/admin/projects/{project}?span=24h">Busy project<' in text
    assert led_to(r'<a href="([^"]+)">gpt-4o-mini<') == ["well", "well", "well"]
    *_, hour = re.findall(r'<th scope="row"><a href="([^"]+)">\d\d:\d\d<', text)
    assert led_to(re.escape(f'<a href="{hour}"').replace(re.escape(hour), f"({re.escape(hour)})")) == everything


def test_the_overview_tells_the_change_against_the_time_before(app: Flask, browser: Browser, write_record: Write):
    now = datetime.now(UTC).timestamp()
    for age_h in (30, 30, 30, 30, 0, 0, 0):
        write_record(timestamp=now - age_h * 3600)
    roll_up(app)

    assert "\N{MINUS SIGN}25% against the 24 hours before" in browser.get("/admin/").text


def spent(app: Flask, browser: Browser, write_record: Write) -> tuple[str, str]:
    """A project and a token of it with two calls that had a price, and one that had none."""
    project = browser.create_project("Spender")
    with app.app_context():
        token = tokens.issue(db.session, Actor("test"), project_id=project, lifetime=timedelta(days=1))[1].id
    write_record(project_id=project, token_id=token, cost=1_250_000, cost_source="reported", price_date="2026-11-26")
    write_record(project_id=project, token_id=token, cost=250_000, cost_source="reported", price_date="2026-11-26")
    metadata = {"model": "house-model", "prompt_tokens": 3}
    write_record(project_id=project, token_id=token, cost_source="unpriced", metadata=metadata)
    return project, token


@pytest.mark.parametrize("page", ["overview", "project", "token"])
def test_costs_and_calls_without_a_price_are_shown(app: Flask, browser: Browser, write_record: Write, page: str):
    project, token = spent(app, browser, write_record)
    roll_up(app)

    paths = {"overview": "/admin/", "project": f"/admin/projects/{project}", "token": f"/admin/tokens/{token}"}
    text = browser.get(paths[page]).text

    tile = r'</h2><p class="figure">\$1\.50</p><p class="quiet"><a href="[^"]+">1 call without a price</a></p>'
    assert re.search(tile, text)
    if page != "token":
        assert "<code>house-model</code>" in text
        assert "Write into your PRICES_FILE [model.&#34;house-model&#34;]" in text
        assert f"The price sheet is of {Services.of(app).prices.date}." in text


def test_the_overview_has_a_chart_of_costs_and_who_caused_them(app: Flask, browser: Browser, write_record: Write):
    spent(app, browser, write_record)
    roll_up(app)

    text = browser.get("/admin/").text

    assert "<figcaption><strong>Cost</strong>" in text
    assert text.count("LLM tokens, $1.50</span>") == 3
    assert "LLM tokens, no price</span>" in text


def test_where_all_calls_had_a_price_the_day_of_the_prices_is_told(app: Flask, browser: Browser, write_record: Write):
    write_record(cost=1_000_000, cost_source="reported")
    roll_up(app)

    text = browser.get("/admin/").text

    assert f'<p class="figure">$1.00</p><p class="quiet">Prices of {Services.of(app).prices.date}</p>' in text
    assert "Calls without a price" not in text


def test_a_request_tells_its_cost_and_how_it_came_about(browser: Browser, write_record: Write):
    write_record(cost=32_250, cost_source="reported", price_date="2026-11-26", service_tier="flex")

    rows = browser.get("/admin/requests").text
    text = browser.get(link_to_record(rows)).text

    assert '<span class="quiet">$0.0323</span></td>' in rows
    assert '<p class="figure">$0.0323</p>' in text
    assert "By the usage that the upstream told, prices of 2026-11-26" in text
    assert "<dt>Tier</dt><dd>flex</dd>" in text


@pytest.mark.parametrize(
    ("source", "figure", "words"),
    [
        ("none", "$0", "Costs nothing"),
        ("absent", "–", "The upstream told no usage"),
        ("unpriced", "–", "What it used has no price"),
    ],
)
def test_a_request_without_a_cost_says_why(
    browser: Browser, write_record: Write, source: str, figure: str, words: str
):
    write_record(cost=0 if source == "none" else None, cost_source=source, metadata=None, requested_model="tts-1")

    rows = browser.get("/admin/requests").text
    text = browser.get(link_to_record(rows)).text

    assert f'<br><span class="quiet">{"no price" if source == "unpriced" else figure}</span>' in rows
    assert f'<p class="figure">{figure}</p><p class="quiet">{words}</p>' in text
    assert '<p class="figure small">tts-1</p>' in text


def test_without_prices_no_page_speaks_of_cost(app: Flask, browser: Browser, write_record: Write):
    project, token = spent(app, browser, write_record)
    roll_up(app)
    app.extensions["llmproxy"] = replace(Services.of(app), prices=None)

    for path in ("/admin/", f"/admin/projects/{project}", f"/admin/tokens/{token}"):
        assert "<h2>Cost" not in (text := browser.get(path).text)
        assert "$" not in text and "without a price" not in text


def test_scripts_are_told_the_cost_too(app: Flask, browser: Browser, script: Script, write_record: Write):
    spent(app, browser, write_record)
    roll_up(app)

    assert {"cost_usd": 1.5, "unpriced": 1}.items() <= script.send("GET", "/admin/", headers=JSON).json.items()


@pytest.mark.parametrize("page", ["project", "token"])
def test_a_page_begins_with_what_its_calls_did(app: Flask, browser: Browser, write_record: Write, page: str):
    project, other = browser.create_project(), browser.create_project("other")
    with app.app_context():
        lifetime = timedelta(days=1)
        token = tokens.issue(db.session, Actor("t"), project_id=project, lifetime=lifetime, label="ours")[1].id
    ours = {"project_id": project, "token_id": token}
    long_ago = (datetime.now(UTC) - timedelta(days=3)).timestamp()
    write_record(**ours, timestamp=long_ago, metadata={"model": "o4-mini"})
    write_record(**ours)
    limited = {"status_code": 429, "outcome": "refused", "upstream_status": None, "metadata": None}
    write_record(**ours, **limited, error={"code": "rate_limit_exceeded", "type": "requests"})
    write_record(**ours, status_code=504, outcome="upstream_timeout", error={"code": "upstream_timeout", "type": "x"})
    write_record(project_id=other, status_code=500, error={"code": "not_ours", "type": "x"})
    roll_up(app)

    path = {"project": f"/admin/projects/{project}", "token": f"/admin/tokens/{token}"}[page]
    month, day = browser.get(path).text, browser.get(f"{path}?span=24h").text

    for text, requests in ((month, 4), (day, 3)):
        assert f'<h2>Requests</h2><p class="figure">{requests}</p>' in text
        assert '<h2>Errors</h2><p class="figure">1</p>' in text
        refused, limited = (html.unescape(found) for found in re.findall(r'href="([^"]+outcome=refused[^"]*)"', text))
        assert ">1 over a limit (429)</a>" in text and statuses(browser, limited) == ["429"]
        assert statuses(browser, refused) == ["429"]
        whom = {"project": "ours", "token": "/v1/chat/completions"}[page]
        assert f'>rate_limit_exceeded</a><br><span class="quiet">{whom}</span>' in text
        for tile in ("LLM tokens", "Cost"):
            calls = html.unescape(re.search(rf'<h2><a href="([^"]+)">{tile}</a></h2>', text)[1])
            assert len(statuses(browser, calls)) == requests
        # What can be changed stands below what happened.
        assert text.index("<h2>Requests</h2>") < text.index("Latest errors") < text.index("<h2>Limits</h2>")
        assert ">upstream_timeout</a>" in text and ">rate_limit_exceeded</a>" in text and "not_ours" not in text
    assert ">o4-mini</a>" in month and ">o4-mini</a>" not in day
    errors = html.unescape(re.search(r'href="(/admin/requests\?outcome=error[^"]+)"', month)[1])
    assert statuses(browser, errors) == ["504"]
    assert statuses(browser, errors.replace("outcome=error", "outcome=failed")) == ["504", "429"]
    # Without a time the log itself is searched.
    assert statuses(browser, "/admin/requests?outcome=error") == ["500", "504"]


def statuses(browser: Browser, address: str) -> list[str]:
    return re.findall(r'<span class="status \w+">(\d+)</span>', browser.get(address).text)


def test_a_project_without_calls_has_no_empty_charts(browser: Browser):
    text = browser.get(f"/admin/projects/{browser.create_project()}").text

    assert '<h2>Requests</h2><p class="figure">0</p>' in text
    assert "<figure" not in text and "charts.js" not in text


def test_the_overview_names_what_withers_next(app: Flask, browser: Browser):
    project = browser.create_project()
    with app.app_context():
        for days in (9, 2, 5):
            tokens.issue(
                db.session, Actor("t"), project_id=project, lifetime=timedelta(days=days), label=f"for {days} days"
            )

    text = browser.get("/admin/").text

    assert text.index("for 2 days") < text.index("for 5 days") < text.index("for 9 days")


def test_the_overview_tells_how_far_readers_are_behind(app: Flask, browser: Browser, write_record: Write):
    write_record()
    roll_up(app)
    assert "up to date" in browser.get("/admin/").text

    write_record()

    assert "behind, since" in browser.get("/admin/").text


# Requests


def test_no_requests_yet_leads_on(browser: Browser):
    assert "No requests yet" in browser.get("/admin/requests").text


def test_the_latest_request_comes_first_with_the_names_of_its_project_and_token(
    app: Flask, browser: Browser, write_record: Write
):
    project = browser.create_project("Named project")
    with app.app_context():
        _, token = tokens.issue(
            db.session, Actor("t"), project_id=project, lifetime=timedelta(days=1), label="named token"
        )
    write_record(endpoint="/v1/older")
    write_record(endpoint="/v1/newer", project_id=project, token_id=token.id)

    text = browser.get("/admin/requests").text

    assert text.index("/v1/newer") < text.index("/v1/older")
    assert "named token" in text and "Named project" in text


def test_requests_are_filtered(browser: Browser, write_record: Write):
    write_record(endpoint="/v1/good")
    write_record(endpoint="/v1/late", status_code=504, outcome="upstream_timeout", metadata={"model": "o4-mini"})

    def shown(query: str) -> set[str]:
        text = browser.get(f"/admin/requests?{query}").text
        return {path for path in ("/v1/good", "/v1/late") if f"</span> {path}</code>" in text}

    assert shown("") == {"/v1/good", "/v1/late"}
    assert shown("status=504") == shown("status=5xx") == shown("outcome=upstream_timeout") == {"/v1/late"}
    assert shown("model=gpt-4o") == {"/v1/good"}
    assert shown("model=o4&status=2xx") == set()
    assert shown("project_id=nobody") == shown("token=" + "0" * 36) == set()


def test_the_requests_of_a_token_are_found_by_its_label_or_short_id(
    app: Flask, browser: Browser, write_record: Write
):
    project = browser.create_project()
    with app.app_context():
        lifetime = timedelta(days=1)
        labels = ("nightly job", "twice", "twice")
        ids = [
            tokens.issue(db.session, Actor("t"), project_id=project, lifetime=lifetime, label=label)[1].id
            for label in labels
        ]
    write_record(endpoint="/v1/mine", token_id=ids[0], project_id=project)
    write_record(endpoint="/v1/other", token_id=ids[1], project_id=project)

    for text in (ids[0], ids[0][:8], f"Token {ids[0][:8]}", "Nightly job"):
        page = browser.get(f"/admin/requests?token={text}").text
        assert "/v1/mine" in page and "/v1/other" not in page, text
    for text, words in (("twice", "Several tokens are called"), ("nobody", "No token has the label")):
        answer = browser.get(f"/admin/requests?token={text}")
        assert answer.status_code == 400 and words in answer.text


@pytest.mark.parametrize("status", ["abc", "42", "4x", "999", "٤٢٩", "429 or"])
def test_a_status_that_is_none_is_told_beside_the_field(browser: Browser, status: str):
    answer = browser.get(f"/admin/requests?status={status}")

    assert answer.status_code == 400
    assert "Status must be a number like 429" in answer.text


def test_older_requests_are_one_link_away(browser: Browser, write_record: Write):
    for number in range(60):
        write_record(endpoint=f"/v1/number-{number}.")

    first = browser.get("/admin/requests").text
    older = html.unescape(re.search(r'href="(/admin/requests\?before=[^"]+)">Search older', first)[1])
    second = browser.get(older).text

    assert "number-59." in first and "number-10." in first and "number-9." not in first
    assert "number-9." in second and "number-0." in second and "number-10." not in second
    assert "Search older" not in second


def test_one_record_is_shown_in_full(browser: Browser, write_record: Write):
    record = write_record(upstream_request_id="req_of_the_upstream")

    page = browser.get(link_to_record(browser.get("/admin/requests").text))

    assert page.status_code == 200
    assert "req_of_the_upstream" in page.text and "usage_source" in page.text
    assert browser.get(f"/admin/requests/{record.request_id}").status_code == 200
    assert browser.get(f"/admin/requests/{record.request_id}?at=nonsense.5").status_code == 200


def test_what_was_read_is_not_shown_as_used(browser: Browser, write_record: Write):
    record = write_record(usage_source="stored", usage_of="batch_1", method="GET", endpoint="/v1/batches/batch_1")

    assert '<span class="quiet">read</span>' in browser.get("/admin/requests").text
    page = browser.get(f"/admin/requests/{record.request_id}").text
    assert "<h2>LLM tokens used</h2>" not in page and "of <code>batch_1</code>, which counts once" in page


def streams(app: Flask, browser: Browser, write_record: Write) -> str:
    """A project with 41 silent streams of 100."""
    project = browser.create_project("Silent")
    for number in range(100):
        write_record(project_id=project, stream=True, usage_source="absent" if number < 41 else "reported")
    roll_up(app)
    return project


@pytest.mark.parametrize("page", ["overview", "project"])
def test_streams_that_told_no_usage_are_told_with_the_switch_beside_it(
    app: Flask, browser: Browser, write_record: Write, page: str
):
    project = streams(app, browser, write_record)
    path = {"overview": "/admin/", "project": f"/admin/projects/{project}"}[page]
    action = f"/admin/projects/{project}/stream-usage"
    text = browser.get(path).text
    assert "41% of this project" in text and "streams</a> told no usage" in text and f'action="{action}"' in text

    browser.submit(path, action, stream_usage="ask")

    with app.app_context():
        assert projects.find(db.session, project).stream_usage == "ask"
    assert "told no usage" not in browser.get(path).text


def test_the_switch_takes_nothing_else(app: Flask, browser: Browser, write_record: Write):
    project = streams(app, browser, write_record)

    answer = browser.submit("/admin/", f"/admin/projects/{project}/stream-usage", stream_usage="x")

    assert answer.status_code == 400
    with app.app_context():
        assert projects.find(db.session, project).stream_usage == "as-sent"


def test_a_call_that_was_cut_under_way_is_shown_as_one_and_what_its_cost_is_too(
    browser: Browser, write_record: Write
):
    cut = {"outcome": "refused", "is_cut": True, "error": {"code": "token_revoked", "type": "invalid_request_error"}}
    record = write_record(**cut, cost=30_000, cost_source="assumed")
    page = browser.get(f"/admin/requests/{record.request_id}").text

    assert "Cut off" in page
    assert "Assumed, for the upstream told no usage" in page


def test_a_call_that_failed_inside_a_good_response_is_shown_as_one(browser: Browser, write_record: Write):
    record = write_record(failed_inside=True)

    for page in (browser.get("/admin/requests"), browser.get(f"/admin/requests/{record.request_id}")):
        assert "Failed inside" in page.text and 'class="status bad"' in page.text


def test_a_record_that_stands_for_many_refusals_says_so(browser: Browser, write_record: Write):
    write_record(outcome="refused", status_code=401, count=1523)

    rows, full = browser.get("/admin/requests"), browser.get("/admin/requests/11111111-2222-4333-8444-555555555555")

    assert "× 1,523" in rows.text
    assert "It stands for 1,523 calls" in full.text


def test_a_place_in_the_log_shows_no_other_record(browser: Browser, write_record: Write):
    write_record()
    place = link_to_record(browser.get("/admin/requests").text).partition("?")[2]

    answer = browser.get(f"/admin/requests/99999999-2222-4333-8444-555555555555?{place}")

    assert answer.status_code == 404


def test_the_live_view_brings_what_came_after_a_place(browser: Browser, write_record: Write):
    write_record(endpoint="/v1/before")
    place = re.search(r'data-place="([^"]+)"', browser.get("/admin/requests").text)[1]
    write_record(endpoint="/v1/after")

    answer = browser.get(f"/admin/requests/tail?after={place}")

    assert "/v1/after" in answer.text and "/v1/before" not in answer.text
    again = browser.get(f"/admin/requests/tail?after={answer.headers['X-Next-Place']}")
    assert again.text.strip() == ""


def test_the_live_view_says_how_many_it_leaves_out_and_leads_to_them(browser: Browser, write_record: Write):
    write_record(endpoint="/v1/before", outcome="refused")
    place = re.search(r'data-place="([^"]+)"', browser.get("/admin/requests").text)[1]
    for number in range(53):
        write_record(endpoint=f"/v1/after/{number}", outcome="refused")

    answer = browser.get(f"/admin/requests/tail?after={place}&outcome=refused")

    assert answer.text.count('<th scope="row">') == 50 and "/v1/after/3<" in answer.text
    link = re.search(r'<a href="([^"]+)">3 older ones came at the same time</a>', answer.text)[1]
    older = browser.get(html.unescape(link)).text
    shown = re.findall(r'<code class="call" title="([^"]+)">', older)
    assert shown == ["/v1/after/2", "/v1/after/1", "/v1/after/0", "/v1/before"] and "outcome=refused" in link


def test_scripts_get_records_as_json(script: Script, write_record: Write):
    record = write_record()

    answer = script.send("GET", "/admin/requests", headers={"Accept": "application/json"})

    assert [row["request_id"] for row in answer.json["data"]] == [record.request_id]


@pytest.mark.parametrize(
    "line",
    [
        b"not json\n",
        b'{"request_id": "a"}\n',
        b'{"request_id":"b","timestamp":5,"status_code":"many","metadata":[1],"error":"x","duration_ms":{}}\n',
        b'{"request_id":"c","project_id":{"a":1},"token":[2],"outcome":null,"method":7,"endpoint":null}\n',
        b'{"request_id":"d/../e","metadata":{"model":{"x":1},"total_tokens":"many"}}\n',
        b'{"timestamp":"2026-01-01T00:00:00.000Z","request_id":"to',
    ],
)
def test_lines_that_are_no_proper_record_are_no_fault(app: Flask, browser: Browser, write_record: Write, line: bytes):
    write_record()
    with Services.of(app).settings.log_path.open("ab") as log:
        log.write(line)

    assert browser.get("/admin/requests").status_code == 200
    for found in re.findall(r'href="(/admin/requests/[^"]+at=[^"]+)"', browser.get("/admin/requests").text):
        assert browser.get(html.unescape(found)).status_code in (200, 404)


# Audit


def test_an_empty_audit_trail_leads_on(browser: Browser):
    assert "Nothing was changed yet" in browser.get("/admin/audit").text


def test_the_audit_trail_shows_what_was_done_here_and_by_the_management_api(app: Flask, browser: Browser):
    project = browser.create_project("watched")
    bearer = {"Authorization": f"Bearer {Services.of(app).settings.management_token}"}
    app.test_client().patch(f"/manage/projects/{project}", json={"name": "changed"}, headers=bearer)

    text = browser.get("/admin/audit").text

    assert "<strong>management</strong> changed the project" in text
    assert "<strong>admin</strong> created the project" in text
    assert "<del>watched</del>" in text and "<ins>changed</ins>" in text
    assert KEY not in text
    assert "created the project" not in browser.get("/admin/audit?actor=management").text
    assert "No change passes this filter" in browser.get("/admin/audit?type=token").text


def test_the_audit_trail_is_searched_by_name_or_short_id_and_names_projects(app: Flask, browser: Browser):
    project = browser.create_project("Übersee")
    browser.submit("/admin/tokens/new", "/admin/tokens", project_id=project, label="nightly")

    for text in (project, project[:8], "übersee"):
        page = browser.get(f"/admin/audit?target={text}").text
        assert "created the project" in page and "issued the token" not in page, text
    page = browser.get("/admin/audit?target=nightly").text
    assert "<dt>project</dt><dd><ins>Übersee</ins>" in page and project not in page


def test_the_audit_trail_is_shown_for_a_range_of_days(app: Flask, browser: Browser):
    browser.create_project("today's")
    today, tomorrow = (datetime.now(UTC) + timedelta(days=days) for days in (0, 1))

    def shows(**days: datetime) -> bool:
        query = "&".join(f"{name}={day:%Y-%m-%d}" for name, day in days.items())
        return "created the project" in browser.get(f"/admin/audit?{query}").text

    assert shows(**{"from": today}) and shows(to=today) and shows(**{"from": today, "to": today})
    assert not shows(**{"from": tomorrow}) and not shows(to=today - timedelta(days=1))
    answer = browser.get("/admin/audit?from=nonsense")
    assert answer.status_code == 400 and "A time must be like 2026-11-23T18:30, in UTC." in answer.text


def test_every_list_comes_as_a_file_of_what_is_filtered_with_no_formula_in_it(
    app: Flask, browser: Browser, write_record: Write
):
    project = browser.create_project("=HYPERLINK(1)")
    browser.create_project("plain")
    with app.app_context():
        lifetime = timedelta(days=1)
        for label in ("@SUM(1)", *(f"token {number}" for number in range(60))):
            tokens.issue(db.session, Actor("t"), project_id=project, lifetime=lifetime, label=label)
    old = {"user_agent": "=1+1", "secret": "retired"}
    write_record(project_id=project, metadata={"model": "-2+3", "total_tokens": 7}, cost=1_500_000, **old)
    write_record(endpoint="/v1/other", status_code=500)

    def rows(path: str) -> list[dict[str, str]]:
        answer = browser.get(path)
        assert answer.content_type == "text/csv; charset=utf-8"
        assert "attachment" in answer.headers["Content-Disposition"]
        return list(csv.DictReader(io.StringIO(answer.text)))

    assert [row["name"] for row in rows("/admin/projects?format=csv&q=HYPER")] == ["'=HYPERLINK(1)"]
    issued = rows(f"/admin/tokens?format=csv&project_id={project}&page=2")
    assert len(issued) == 61 and issued[-1]["label"] == "'@SUM(1)" and issued[0]["state"] == "live"
    [call] = rows("/admin/requests?format=csv&status=200")
    assert (call["user_agent"], call["secret"]) == ("'=1+1", "retired")
    assert (call["billed_model"], call["project"], call["cost_usd"]) == ("'-2+3", "'=HYPERLINK(1)", "1.5")
    assert len(rows("/admin/audit?format=csv&type=token")) == 61
    for name in ("projects", "tokens", "requests", "audit"):
        assert re.search(rf'href="/admin/{name}\?format=csv[^"]*" download', browser.get(f"/admin/{name}").text), name


def test_a_long_audit_trail_comes_in_pages(app: Flask, browser: Browser):
    with app.app_context():
        for number in range(55):
            projects.create(db.session, Services.of(app).keyring, Actor("t"), name=f"p{number}.", openai_api_key=KEY)

    first = browser.get("/admin/audit").text
    older = html.unescape(re.search(r'href="(/admin/audit\?before=[^"]+)">Older', first)[1])

    assert "p54." in first and "p4." not in first
    assert "p4." in browser.get(older).text


# Health


def test_health_shows_the_parts(app: Flask, browser: Browser, write_record: Write):
    write_record()
    sqlite = Services.of(app).settings.database_url.startswith("sqlite")

    text = browser.get("/admin/health").text

    assert (
        ("SQLite" if sqlite else "PostgreSQL") in text
        and "Up to date" in text
        and schema.HEAD in text
        and "free" in text
    )


def test_health_tells_a_schema_that_a_newer_version_made_from_one_that_is_out_of_date(app: Flask, browser: Browser):
    database_url = Services.of(app).settings.database_url
    execute(database_url, "UPDATE alembic_version SET version_num = '9999'")
    newer = browser.get("/admin/health").text
    execute(database_url, "UPDATE alembic_version SET version_num = '0001'")
    older = browser.get("/admin/health").text

    assert "Migration 9999, by a newer version" in newer and "Out of date" not in newer
    assert "Out of date" in older


def test_health_shows_a_database_that_does_not_answer(browser: Browser, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("blueprints.admin.health.is_reachable", lambda _: False)

    answer = browser.get("/admin/health")

    assert answer.status_code == 200
    assert "Does not answer" in answer.text


def test_health_shows_a_schema_that_is_out_of_date(browser: Browser, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(schema, "version", lambda _: "0000")

    assert "Out of date" in browser.get("/admin/health").text


def test_health_warns_of_records_that_wait(app: Flask, browser: Browser, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(type(Services.of(app).log), "pending", property(lambda _: 3))
    assert "3 records of this worker wait in memory" in browser.get("/admin/health").text
    monkeypatch.setattr(type(Services.of(app).log), "lost", property(lambda _: 2))
    assert "This worker lost 2 records" in browser.get("/admin/health").text


def test_health_warns_of_alerts_that_wait(app: Flask, browser: Browser):
    before = browser.get("/admin/health").text
    row = {"id": "a", "kind": "k", "subject": "m", "period_end": 0, "threshold": 80, "body": "", "at": 0}
    values = ", ".join(map(repr, (row | {"state": "waiting"}).values()))
    execute(Services.of(app).settings.database_url, f"INSERT INTO alerts ({', '.join(row)}, state) VALUES ({values})")

    assert "Alerts wait" not in before
    assert "Alerts wait for the receiver behind <code>ALERT_URL</code> (1)" in browser.get("/admin/health").text


@pytest.fixture
def upstream() -> Iterator[tuple[str, list[bytes]]]:
    """The address of an upstream that asks for a key, and what it was sent."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                heard.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", heard
        thread.join(60)


def test_an_upstream_is_tried_without_any_key(browser: Browser, upstream: tuple[str, list[bytes]]):
    url, heard = upstream
    browser.create_project(base_url=url)

    answer = browser.submit("/admin/health", "/admin/health/upstream", url=url)

    assert "It answers, and asks for a key as it should (401)." in answer.text
    assert heard[0].startswith(b"GET /v1/models HTTP/1.1\r\n") and b"uthorization" not in heard[0]


def test_an_upstream_that_is_not_there_is_told(browser: Browser):
    answer = browser.submit("/admin/health", "/admin/health/upstream", url="http://127.0.0.1:9")

    assert answer.status_code == 200
    assert "Nothing listens there: its machine refused the connection." in answer.text
    assert re.search(r"refused the connection\. [A-Z][^<]*[^.]\.<", html.unescape(answer.text))


def test_health_names_the_keys_of_the_ring_and_counts_what_they_seal(app: Flask, browser: Browser):
    browser.create_project()
    (name,) = Services.of(app).keyring.names

    text = re.sub(r"<[^>]+>", "", browser.get("/admin/health").text)

    assert f"1 key{name} seals; 1 upstream key sealed" in text


def test_only_upstreams_in_use_are_tried(browser: Browser):
    fields = browser.form("/admin/health", "/admin/health/upstream").fields

    answer = browser.post("/admin/health/upstream", fields | {"url": "http://169.254.169.254"})

    assert answer.status_code == 404


def test_a_database_that_fails_is_told_kindly(browser: Browser, script: Script, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise OperationalError("SELECT the secret", {}, Exception("down"))

    monkeypatch.setattr("blueprints.admin.queries.projects_page", fail)

    page = browser.get("/admin/projects")
    answer = script.send("GET", "/admin/projects", headers={"Accept": "application/json"})

    assert page.status_code == answer.status_code == 503
    assert "The database does not answer" in page.text and "SELECT" not in page.text
    assert answer.headers["Retry-After"] == "1"


# Nothing becomes markup

PAYLOADS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg onload=alert(1)>",
    "</title><script>alert(1)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_that_anybody_wrote_becomes_markup(app: Flask, browser: Browser, write_record: Write, payload: str):
    project = browser.create_project(payload)
    with app.app_context():
        _, token = tokens.issue(
            db.session, Actor(payload), project_id=project, lifetime=timedelta(days=1), label=payload
        )
    record = write_record(
        project_id=project,
        token_id=token.id,
        endpoint=f"/v1/{payload}",
        method=payload,
        status_code=429,
        outcome="refused",
        upstream_request_id=payload,
        metadata={"model": payload, "total_tokens": payload, payload: payload},
        error={"code": payload, "type": payload},
    )
    roll_up(app)
    pages = [
        "/admin/",
        "/admin/projects",
        f"/admin/projects/{project}",
        f"/admin/projects/{project}/delete",
        f"/admin/projects/{project}/revoke",
        "/admin/tokens",
        "/admin/tokens/new",
        f"/admin/tokens/{token.id}",
        f"/admin/tokens/{token.id}/revoke",
        "/admin/requests",
        "/admin/requests/tail",
        f"/admin/requests/{record.request_id}",
        "/admin/audit",
        "/admin/health",
    ]
    texts = [browser.get(page).text for page in pages]
    for name in (
        "q",
        "project_id",
        "state",
        "order",
        "status",
        "outcome",
        "model",
        "token",
        "actor",
        "target",
        "type",
        "before",
        "after",
        "span",
        "page",
    ):
        query = {name: payload}
        texts += [
            browser.client.get(f"/admin/{page}", query_string=query, headers=browser.headers).text
            for page in ("", "projects", "tokens", "requests", "audit")
        ]
    texts.append(browser.submit("/admin/projects/new", "/admin/projects", name=payload, openai_api_key=KEY).text)
    texts.append(browser.submit("/admin/tokens/new", "/admin/tokens", label=payload, duration_hours=payload).text)

    for text in texts:
        found = markup_of(text)
        assert "alert(1)" not in found.scripts
        assert found.handlers == [] and found.images == 0 and found.foreign_links == [] and found.styles == 0
        assert "49{% raw %}" not in text


class Markup(html.parser.HTMLParser):
    """What could run or reach out in a page."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts = ""
        self.handlers: list[str] = []
        self.foreign_links: list[str] = []
        self.images = 0
        self.styles = 0
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_script = tag == "script"
        self.images += tag in ("img", "iframe", "object", "embed", "base")
        for name, value in attrs:
            if name.startswith("on"):
                self.handlers.append(name)
            self.styles += name == "style"
            if name in ("href", "src", "action", "formaction") and not (value or "").startswith(("/admin", "#")):
                self.foreign_links.append(f"{name}={value}")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts += data


def markup_of(text: str) -> Markup:
    found = Markup()
    found.feed(text)
    return found


def test_the_search_for_markup_finds_some():
    found = markup_of('<img src=x onerror=a><script>alert(1)</script><a href="javascript:b" style="c">d</a>')

    assert (found.scripts, found.handlers, found.images, found.styles) == ("alert(1)", ["onerror"], 1, 1)
    assert found.foreign_links == ["src=x", "href=javascript:b"]


def test_times_are_relative_with_the_exact_time_beside_them(browser: Browser, write_record: Write):
    moment = datetime.now(UTC) - timedelta(hours=3)
    write_record(timestamp=moment.timestamp())

    text = browser.get("/admin/requests").text

    exact = moment.strftime("%Y-%m-%d %H:%M:%S UTC")
    stamp = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert f'<time datetime="{stamp}" title="{exact}">3 hours ago</time>' in text


@pytest.mark.parametrize(
    "address",
    [
        *(f"audit?before={before}" for before in ("-1", "0", "99999999999999999999999", "9" * 5000, "x")),
        *("requests?before=x", "requests?after=1.2.3.4", "requests?span=24h&before=a.1", "requests?span=24h&after=1"),
    ],
)
def test_a_place_that_a_list_has_not_gives_way_to_its_beginning_and_is_told(browser: Browser, address: str):
    answer = browser.get(f"/admin/{address}")

    assert answer.status_code == 200 and "There is no such place in this list." in answer.text
