"""What requests are narrowed by, and that a pasted secret gets into no address."""

import html
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from flask import Flask

from blueprints.admin import exports, requests_log
from control import tokens
from control.audit import Actor
from llmproxy.admission import utc_now
from llmproxy.api_log.record import CallRecord
from llmproxy.call import new_id
from models import db
from tests.blueprints.admin.site import Browser, Script
from tests.blueprints.admin.test_pages import roll_up

Write = Callable[..., CallRecord]
RANK = re.compile(
    r'<span class="rank-name"><a[^>]*>([^<]+)</a></span>\s*'
    r'<span class="num"><a class="plain" href="/admin/requests\?([^"]+)">(\d+)</a>'
)
EVENING = datetime(2026, 11, 23, 18, 0, tzinfo=UTC)


def shown(browser: Browser, query: str) -> list[str]:
    """The endpoints of the requests that a list shows."""
    return re.findall(r'<code class="call" title="/v1/(\w+)">', browser.get(f"/admin/requests?{query}").text)


@pytest.fixture
def evening(app: Flask, write_record: Write) -> None:
    """A request each quarter of an hour from six on, the one at half past the slowest and the only failed one."""
    for number, name in enumerate(("six", "quarter", "half", "late")):
        write_record(
            timestamp=(EVENING + timedelta(minutes=15 * number)).timestamp(),
            request_id=f"11111111-2222-4333-8444-55555555555{number}",
            endpoint=f"/v1/{name}",
            duration_ms=9000.0 if name == "half" else 10.0 * (number + 1),
            status_code=500 if name == "half" else 200,
            client_address="192.0.2.7" if name == "late" else "192.0.2.8",
            secret="retired" if name == "late" else None,
            error={"code": "overloaded", "type": "server_error"} if name == "half" else None,
        )
    roll_up(app)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("from=2026-11-23T18:15&to=2026-11-23T18:45", ["half", "quarter"]),
        ("from=2026-11-23T19:15%2B01:00", ["late", "half", "quarter"]),
        ("order=slowest", ["half", "late", "quarter", "six"]),
        ("order=slowest&to=2026-11-23T18:30", ["quarter", "six"]),
        ("from=2026-11-23T18:00&outcome=failed", ["half"]),
        ("code=overloaded", ["half"]),
        ("address=192.0.2.7", ["late"]),
        ("secret=retired", ["late"]),
        ("from=2026-11-23T18:15&secret=retired", ["late"]),
        ("from=2026-11-23T18:15&address=192.0.2.8", ["half", "quarter"]),
        ("to=2026-11-23T18:30&address=192.0.2.8", ["quarter", "six"]),
        ("from=2026-11-23T18:30&to=2026-11-23T18:31&code=overloaded", ["half"]),
        ("order=slowest&address=192.0.2.8", ["half", "quarter", "six"]),
        ("request_id=11111111-2222-4333-8444-555555555552", ["half"]),
        ("span=1h", []),
    ],
)
@pytest.mark.usefixtures("evening")
def test_requests_are_found_by_time_duration_and_what_is_known_of_them(
    browser: Browser, query: str, found: list[str]
):
    assert shown(browser, query) == found


def test_a_request_of_long_ago_is_found_by_its_id_alone(
    app: Flask, browser: Browser, write_record: Write, monkeypatch
):
    wanted = new_id(EVENING.timestamp())
    write_record(request_id=wanted, timestamp=EVENING.timestamp(), endpoint="/v1/wanted")
    write_record(endpoint="/v1/other")
    roll_up(app)
    # What a search from the end of the log reaches.
    monkeypatch.setattr("llmproxy.api_log.latest.SEARCH_BYTES", 1)
    monkeypatch.setattr("llmproxy.api_log.latest._BLOCK_BYTES", 700)

    assert "/v1/wanted" in browser.get(f"/admin/requests/{wanted}").text
    assert shown(browser, f"request_id={wanted}") == ["wanted"]


def test_a_websocket_and_the_responses_made_in_it_lead_to_each_other(
    app: Flask, browser: Browser, write_record: Write
):
    began = utc_now() - timedelta(minutes=5)
    opened = new_id(began.timestamp())
    told: dict[str, Any] = {"method": "GET", "status_code": 101, "upstream_status": 101}
    for part in (1, 2):
        at = (began + timedelta(minutes=part)).timestamp()
        write_record(request_id=f"{opened}-{part}", timestamp=at, endpoint=f"/v1/part{part}", part=part, **told)
    write_record(endpoint="/v1/other")
    roll_up(app)

    def lead(page: str, words: str) -> str:
        found = re.search(rf'<a href="([^"]+)">{words}</a>', page)
        assert found, page
        return html.unescape(found[1])

    response = browser.get(f"/admin/requests/{opened}-2").text
    assert "Response 2 of one that has not ended" in response
    assert shown(browser, urlsplit(lead(response, "all its responses")).query) == ["part2", "part1"]

    write_record(request_id=opened, timestamp=began.timestamp(), duration_ms=250_000.0, endpoint="/v1/opened", **told)
    roll_up(app)
    response = browser.get(f"/admin/requests/{opened}-2").text
    session = browser.get(lead(response, "this one")).text
    assert "/v1/opened" in session
    for page in (session, response):
        assert shown(browser, urlsplit(lead(page, "[aA]ll its responses")).query) == ["part2", "part1"]
    assert "all its responses" not in browser.get("/admin/requests/11111111-2222-4333-8444-555555555555").text


def test_a_time_that_is_none_is_told_beside_its_field(browser: Browser):
    answer = browser.get("/admin/requests?from=yesterday")

    assert answer.status_code == 400
    assert "A time must be like" in answer.text


@pytest.mark.parametrize("prefix", ["", "sk-"])
def test_a_pasted_secret_leads_to_its_tokens_id_and_stands_in_no_address(
    browser: Browser, issued: tuple[str, str], prefix: str
):
    secret, token_id = issued

    answer = browser.submit("/admin/requests", "/admin/requests", token=prefix + secret.removeprefix("sk-"))

    assert answer.status_code == 303
    assert parse_qs(urlsplit(answer.headers["Location"]).query) == {"token": [token_id]}
    assert secret not in answer.text + str(answer.headers)


def test_a_secret_that_was_replaced_leads_to_its_token_too(app: Flask, browser: Browser, issued: tuple[str, str]):
    secret, token_id = issued
    with app.app_context():
        tokens.rotate(db.session, Actor("test"), token_id, grace=timedelta(hours=1))

    answer = browser.submit("/admin/requests", "/admin/requests", token=secret)

    assert answer.headers["Location"].endswith(f"token={token_id}")


def test_a_secret_of_no_token_is_not_repeated(browser: Browser):
    unknown = "8a6e0804-2bd0-4672-b79d-d97027f9071a"

    answer = browser.submit("/admin/requests", "/admin/requests", token=unknown)

    assert answer.status_code == 400
    assert "No token has this id, or this secret." in answer.text and unknown not in answer.text


def test_a_filled_in_filter_becomes_an_address_without_what_is_empty(browser: Browser):
    sent = {"outcome": "failed", "from": "2026-11-23T18:00", "span": ""}

    assert filled_in(browser, sent) == {"outcome": ["failed"], "from": ["2026-11-23T18:00"]}


def filled_in(browser: Browser, sent: dict[str, str]) -> dict[str, list[str]]:
    answer = browser.submit("/admin/requests", "/admin/requests", **sent)
    return parse_qs(urlsplit(answer.headers["Location"]).query)


@pytest.mark.parametrize(
    ("span_was", "holds"), [("", {"span": ["24h"]}), ("24h", {"from": ["2026-11-23T18:00"]})], ids=["span", "from"]
)
def test_of_a_span_and_a_time_the_changed_one_holds(browser: Browser, span_was: str, holds: dict[str, list[str]]):
    sent = {"span": "24h", "span_was": span_was, "from": "2026-11-23T18:00", "to": ""}

    assert filled_in(browser, sent) == holds


@pytest.mark.usefixtures("evening")
def test_a_file_of_requests_leads_to_the_one_that_goes_on(browser: Browser, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exports, "MAX_ROWS", 3)
    query = "/admin/requests?from=2026-11-23T18:00"
    assert "the first 3 of this list at most" in browser.get(query).text

    first = browser.get(f"{query}&format=csv")
    rest = browser.get(re.fullmatch(r'<(.+)>; rel="next"', first.headers["Link"])[1])

    ends = [re.findall(r"/v1/(\w+)", answer.text) for answer in (first, rest)]
    assert ends == [["late", "half", "quarter"], ["six"]]
    assert "Link" not in rest.headers


def test_a_form_with_times_has_no_span(browser: Browser):
    text = browser.get("/admin/requests?span=24h&from=2026-11-23T18:00").text

    assert 'name="span_was" value=""' in text and '<option value="24h" selected>' not in text


def test_the_model_that_a_failed_call_asked_for_is_shown(browser: Browser, write_record: Write):
    write_record(status_code=404, upstream_status=404, metadata=None, requested_model="gpt-9")

    assert "Asked for: gpt-9" in browser.get("/admin/requests").text


@pytest.mark.usefixtures("evening")
def test_what_names_none_is_found_in_the_log_too(browser: Browser):
    for query in ("project_id=(none)", "token=(none)", "project_id=(none)&token=(none)&billed_model=gpt-4o-mini"):
        assert shown(browser, query) == ["late", "half", "quarter", "six"]
    assert shown(browser, "billed_model=(none)") == []


def test_each_rank_leads_to_as_many_requests_as_it_counts(app: Flask, browser: Browser, write_record: Write):
    project = browser.create_project("named")
    mini, whole = {"model": "gpt-4o-mini"}, {"model": "gpt-4o"}
    turned_down = {"metadata": None, "status_code": 404, "upstream_status": 404, "requested_model": "gpt-4o"}
    of_project = ({"metadata": mini}, {"metadata": whole}, {"metadata": whole, "token_id": "t" * 36}, turned_down)
    for changes in of_project:
        write_record(project_id=project, endpoint="/v1/responses", **changes)
    write_record(metadata=mini, project_id="deleted", endpoint="/v1/responses")
    write_record(metadata=None, endpoint="/v1/responses")
    roll_up(app)

    told = {
        page: {
            name: (int(figure), len(shown(browser, query.replace("&amp;", "&"))))
            for name, query, figure in RANK.findall(browser.get(page).text)
        }
        for page in ("/admin/", f"/admin/projects/{project}")
    }

    models = {"gpt-4o": (2, 2), "gpt-4o-mini": (2, 2), "no model": (2, 2)}
    owners = {"named": (4, 4), "deleted project": (1, 1), "no project": (1, 1), "no token": (5, 5)}
    assert told["/admin/"] == models | owners | {"Token tttttttt": (1, 1)}
    assert told[f"/admin/projects/{project}"] == {"gpt-4o": (2, 2), "gpt-4o-mini": (1, 1), "no model": (1, 1)}


def test_each_reason_and_each_lack_leads_to_as_many_requests_as_it_counts(
    app: Flask, browser: Browser, write_record: Write
):
    project = browser.create_project("lacking")
    refused = {"outcome": "refused", "status_code": 401, "upstream_status": None, "metadata": None, "cost": 0}
    unpriced = {"cost": None, "cost_source": "unpriced"}
    silent = {"stream": True, "usage_source": "absent"}
    for count, changes in (
        (2, refused | {"error": {"code": None, "type": "invalid_request_error"}}),
        (3, refused | {"error": {"code": "token_expired", "type": "invalid_request_error"}}),
        (4, unpriced | {"metadata": {"model": "house-llama"}}),
        (5, unpriced | {"metadata": None, "requested_model": None}),
        (6, silent | {"endpoint": "/v1/completions"}),
    ):
        for _ in range(count):
            write_record(**{"project_id": project, "endpoint": "/v1/responses", "cost_source": "none"} | changes)
    roll_up(app)

    for page in ("/admin/", f"/admin/projects/{project}"):
        text = browser.get(page).text
        links = {
            html.unescape(re.sub("<[^>]+>", "", words)): len(shown(browser, html.unescape(query)))
            for query, words in re.findall(r'href="/admin/requests\?([^"]+)">(.+?)</a>', text)
        }
        lacking = {"9 calls without a price": 9, "house-llama": 4, "no model named": 5}
        assert links.items() >= lacking.items()
        (streams,) = (count for words, count in links.items() if "project's streams" in words)
        assert streams == 6
        if page == "/admin/":
            assert (links["no code"], links["token_expired"]) == (2, 3)


def test_what_names_none_or_is_counted_as_a_model_can_be_taken_out_of_the_form(browser: Browser):
    query = {"project_id": "(none)", "token": "(none)", "billed_model": "(none)"}
    text = browser.get("/admin/requests?" + urlencode(query)).text

    assert '<option value="(none)" selected>No project</option>' in text
    assert all(f'name="{name}" type="text" value="(none)"' in text for name in ("token", "billed_model"))
    assert filled_in(browser, query) == {name: [value] for name, value in query.items()}


@pytest.mark.usefixtures("evening")
def test_a_script_pages_through_a_range(script: Script):
    def ask(query: str) -> dict:
        return script.send("GET", f"/admin/requests?{query}", headers={"Accept": "application/json"}).get_json()

    first = ask("from=2026-11-23T18:00")
    assert [each["endpoint"] for each in first["data"]] == ["/v1/late", "/v1/half", "/v1/quarter", "/v1/six"]
    assert "after" not in first


@pytest.mark.usefixtures("evening")
def test_where_the_index_begins_later_than_asked_for_that_is_told(browser: Browser):
    text = browser.get("/admin/requests?from=2026-11-01T00:00").text

    assert "Requests are found by time from" in text


@pytest.mark.usefixtures("evening")
def test_the_end_of_a_list_is_no_empty_search(browser: Browser, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(requests_log, "PAGE_SIZE", 4)
    (older,) = re.findall(r'rel="next" href="([^"]+)"', browser.get("/admin/requests?from=2026-11-23T18:00").text)

    text = browser.get(html.unescape(older)).text
    assert "These were all" in text and "No request passes" not in text


def test_a_time_tells_who_cost_the_most_in_it(app: Flask, browser: Browser, write_record: Write):
    for name, cost in (("cheap", 1000), ("dear", 2_000_000)):
        project = browser.create_project(name)
        with app.app_context():
            lifetime, label = timedelta(hours=1), f"{name} one"
            _, issued = tokens.issue(db.session, Actor("t"), project_id=project, lifetime=lifetime, label=label)
            token = issued.id
        write_record(project_id=project, token_id=token, cost=cost, cost_source="reported", endpoint=f"/v1/{name}")
    roll_up(app)

    text = browser.get("/admin/requests?span=24h").text

    spenders = re.findall(r'<li><span><a href="([^"]+)">([\w ]+)</a>.*?<span class="num">([^<]+)</span>', text)
    assert [(name, cost) for _, name, cost in spenders] == [
        *(("dear", "$2.00"), ("cheap", "$0.001")),
        *(("dear one", "$2.00"), ("cheap one", "$0.001")),
    ]
    assert shown(browser, spenders[0][0].partition("?")[2].replace("&amp;", "&")) == ["dear"]
    # Beside a list of a few of the calls they would be taken for those of the list.
    for narrowed in ("outcome=failed", "billed_model=gpt-4o", "order=slowest"):
        assert "Costliest" not in browser.get(f"/admin/requests?span=24h&{narrowed}").text
