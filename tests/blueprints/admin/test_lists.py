"""The lists of projects and tokens: what was done lately, in whose order, and of which state."""

import html
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from flask import Flask
from sqlalchemy import update

from blueprints.admin import queries
from control import tokens
from control.audit import Actor
from llmproxy.admission import utc_now
from llmproxy.api_log.record import CallRecord
from models import Token, db
from tests.blueprints.admin.site import Browser, Script
from tests.blueprints.admin.test_pages import roll_up

Write = Callable[..., CallRecord]

ORDERED = {
    "requests": ["busy", "dear", "quiet"],
    "errors": ["dear", "busy", "quiet"],
    "cost": ["dear", "busy", "quiet"],
    "used": ["quiet", "dear", "busy"],
}


def issue(app: Flask, project_id: str, label: str, days: int = 30) -> str:
    with app.app_context():
        lifetime = timedelta(days=days)
        _, token = tokens.issue(db.session, Actor("test"), project_id=project_id, lifetime=lifetime, label=label)
        return str(token.id)


@pytest.fixture
def three(app: Flask, browser: Browser, write_record: Write) -> None:
    """Projects `busy`, `dear` and `quiet`, each with a token of the same name."""
    for place, (name, calls) in enumerate({"busy": 3, "dear": 2, "quiet": 0}.items()):
        project = browser.create_project(name)
        token = issue(app, project, name)
        for number in range(calls):
            failed = name == "dear" or number == 0
            write_record(
                project_id=project,
                token_id=token,
                status_code=500 if failed else 200,
                cost=1_234_567 if name == "dear" else 1000,
                cost_source="reported",
            )
        with app.app_context():
            used_at = utc_now() - timedelta(hours=9 - place)
            db.session.execute(update(Token).where(Token.id == token).values(last_used_at=used_at))
            db.session.commit()
    roll_up(app)


def names(page: str) -> list[str]:
    return re.findall(r'<th scope="row"><a href="[^"]+">(\w+)</a>', page)


@pytest.mark.parametrize("order", ORDERED)
@pytest.mark.parametrize("page", ["projects", "tokens"])
@pytest.mark.usefixtures("three")
def test_a_list_is_ordered_by_each_of_its_columns(browser: Browser, page: str, order: str):
    text = browser.get(f"/admin/{page}?order={order}").text

    assert names(text) == ORDERED[order]
    [turned] = re.findall(r'aria-sort="descending"><a class="sort" href="([^"]*order=-\w+)', text)
    text = browser.get(html.unescape(turned)).text
    assert names(text) == ORDERED[order][::-1]
    assert re.findall(r'aria-sort="ascending"><a class="sort" href="[^"]*order=(\w+)', text) == [order]
    assert f'<option value="-{order}" selected>' in text


@pytest.mark.parametrize(("page", "order"), [("projects", "name"), ("tokens", "label")])
@pytest.mark.usefixtures("three")
def test_names_are_ordered_from_either_end(browser: Browser, page: str, order: str):
    assert names(browser.get(f"/admin/{page}?order={order}").text) == ["busy", "dear", "quiet"]
    assert names(browser.get(f"/admin/{page}?order=-{order}").text) == ["quiet", "dear", "busy"]


@pytest.mark.parametrize("page", ["projects", "tokens"])
@pytest.mark.usefixtures("three")
def test_a_row_tells_what_was_done_lately_and_leads_there(browser: Browser, page: str):
    text = browser.get(f"/admin/{page}?q=dear").text

    assert re.search(
        r'data-label="Requests" class="num"><a [^>]+/admin/requests\?[^>]*(token|project_id)=[^>]+>2</a>', text
    )
    errors = re.search(r'data-label="Errors" class="num"><a [^>]*href="([^"]+outcome=error[^"]+)">2</a>', text)
    assert errors
    query = parse_qs(urlsplit(html.unescape(errors[1])).query)
    # Whole days, the one that runs now the last of thirty.
    assert utc_now() - timedelta(days=30) < datetime.fromisoformat(query["from"][0]).replace(tzinfo=UTC)
    assert browser.get(html.unescape(errors[1])).text.count('<code class="call"') == 2
    assert re.search(r'data-label="Cost" class="num">\$2\.47<', text)


@pytest.mark.parametrize(("state", "shown"), [("on", ["busy", "dear"]), ("off", ["quiet"]), ("expiring", ["dear"])])
@pytest.mark.usefixtures("three")
def test_projects_are_filtered_by_state(app: Flask, browser: Browser, state: str, shown: list[str]):
    ids = dict(re.findall(r'/admin/projects/([0-9a-f-]{36})">(\w+)<', browser.get("/admin/projects").text))
    by_name = {name: each for each, name in ids.items()}
    switch = f"/admin/projects/{by_name['quiet']}/switch"
    browser.submit(switch, switch, is_active="false")
    issue(app, by_name["dear"], "soon", days=3)

    assert names(browser.get(f"/admin/projects?state={state}").text) == shown


@pytest.mark.usefixtures("three")
def test_the_file_of_a_list_holds_what_was_done_lately(browser: Browser):
    head, first, *_ = browser.get("/admin/tokens?order=cost&format=csv").text.splitlines()

    assert head.endswith("last_used_at,project,state,requests_30d,errors_30d,cost_usd_30d")
    assert first.endswith("dear,live,2,2,2.469134")


# A list, where its form goes, and the field where somebody may paste a secret.
SEARCHES = [
    ("/admin/projects", "/admin/projects/filter", "q"),
    ("/admin/tokens", "/admin/tokens/filter", "q"),
    ("/admin/audit", "/admin/audit", "target"),
]


@pytest.mark.parametrize(("page", "action", "field"), SEARCHES)
def test_a_pasted_secret_leads_a_list_to_its_tokens_id(
    browser: Browser, issued: tuple[str, str], page: str, action: str, field: str
):
    secret, token_id = issued

    answer = browser.submit(page, action, **{field: f"sk-{secret}"})

    assert browser.form(page, action).method == "post"
    assert answer.status_code == 303 and secret not in answer.text + str(answer.headers)
    assert parse_qs(urlsplit(answer.headers["Location"]).query)[field] == [token_id]
    # Of projects, the one whose token it is.
    shown = ">of the secret</a>" if page == "/admin/projects" else f'href="/admin/tokens/{token_id}"'
    assert shown in browser.follow(answer).text


@pytest.mark.parametrize(("page", "action", "field"), SEARCHES)
def test_a_list_does_not_repeat_what_may_be_a_strangers_secret(
    browser: Browser, script: Script, issued: tuple[str, str], page: str, action: str, field: str
):
    unknown = "8a6e0804-2bd0-4672-b79d-d97027f9071a"

    answer = browser.submit(page, action, **{field: unknown})

    assert answer.status_code == 400
    assert "No token has this id, or this secret." in answer.text and unknown not in answer.text
    told = script.send("POST", action, data={field: unknown})
    assert (told.status_code, told.json["error"]["param"]) == (400, field) and unknown not in told.text


def test_pasted_secrets_lead_to_their_tokens(app: Flask, browser: Browser):
    project = browser.create_project()
    with app.app_context():
        lifetime = timedelta(hours=1)
        made = [tokens.issue(db.session, Actor("t"), project_id=project, lifetime=lifetime) for _ in range(3)]
        secrets, (first, other, left) = [secret for secret, _ in made], [token.id for _, token in made]
    unknown = "8a6e0804-2bd0-4672-b79d-d97027f9071a"

    answer = browser.submit("/admin/tokens", "/admin/tokens/filter", q=f"{secrets[0]},sk-{secrets[1]}\n{unknown}")

    assert parse_qs(urlsplit(answer.headers["Location"]).query)["q"] == [f"{first} {other}"]
    text = browser.follow(answer).text
    assert all(f'href="/admin/tokens/{each}"' in text for each in (first, other))
    assert f'href="/admin/tokens/{left}"' not in text and "1 of these belong to no other token" in text
    nowhere = browser.submit("/admin/requests", "/admin/requests", token=" ".join(secrets))
    assert nowhere.status_code == 400 and secrets[0] not in nowhere.text


@pytest.mark.parametrize(("page", "_action", "field"), SEARCHES)
def test_an_address_written_with_a_secret_leads_on_to_the_id(
    browser: Browser, issued: tuple[str, str], page: str, _action: str, field: str
):
    secret, token_id = issued

    answer = browser.get(f"{page}?{field}={secret}")

    assert answer.status_code == 303
    assert answer.headers["Location"] == f"{page}?{field}={token_id}"
    assert browser.follow(answer).status_code == 200


@pytest.mark.parametrize("wanted", ["json", "csv"])
@pytest.mark.parametrize(
    ("address", "field"),
    [
        ("requests?status=abc", "status"),
        ("requests?from=nonsense", "from"),
        ("requests?outcome=refusd", "outcome"),
        ("requests?span=1y", "span"),
        ("requests?order=cost", "order"),
        ("requests?token=nobodys", "token"),
        ("projects?state=away", "state"),
        ("projects?order=size", "order"),
        ("tokens?state=away", "state"),
        ("tokens?order=size", "order"),
        ("audit?from=nonsense", "from"),
        ("audit?to=2026-13-01", "to"),
        ("audit?type=keys", "type"),
        ("?span=1y", "span"),
        ("audit?before=-1", "before"),
        ("requests?before=x", "before"),
        ("requests?from=2026-11-23T18:00&after=1.2.3", "after"),
        ("requests/tail?after=x", "after"),
    ],
)
def test_a_script_is_told_of_a_filter_that_means_nothing(script: Script, address: str, field: str, wanted: str):
    if wanted == "json":
        answer = script.send("GET", f"/admin/{address}", headers={"Accept": "application/json"})
    else:
        answer = script.send("GET", f"/admin/{address}&format=csv")

    assert answer.status_code == 400
    assert answer.json["error"]["param"] == field


@pytest.mark.parametrize("address", ["projects?page=x", "tokens?page=2"])
def test_a_script_is_told_of_a_page_that_there_is_not(script: Script, address: str):
    answer = script.send("GET", f"/admin/{address}", headers={"Accept": "application/json"})

    assert answer.status_code == 400 and answer.json["error"]["param"] == "page"
    assert "must be a number from 1 to 1." in answer.json["error"]["message"]


def test_the_trails_form_takes_names_and_ids_of_what_is_no_more(browser: Browser):
    project = browser.create_project("gone")
    delete = f"/admin/projects/{project}/delete"
    browser.submit(delete, delete)

    for text in ("gone", project):
        answer = browser.submit("/admin/audit", "/admin/audit", target=text)
        assert "created the project" in browser.follow(answer).text


@pytest.mark.parametrize("page", ["requests", "tokens", "tokens/new"])
def test_the_project_that_is_asked_for_is_among_those_to_choose_from(
    browser: Browser, page: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(queries, "MAX_CHOICES", 1)
    browser.create_project("a")
    last, gone = browser.create_project("z"), "00000000-0000-4000-8000-000000000000"

    for project, name in ((last, "z"), (gone, "A project that is no more")):
        text = browser.get(f"/admin/{page}?project_id={project}").text
        assert re.search(rf'<option selected value="{project}">{name}|value="{project}" selected>{name}', text)
