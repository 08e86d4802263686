"""An operator's day in a real browser, with scripts and without."""

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from blueprints.admin.display import relative
from llmproxy.admission import utc_now
from tests.browser.chromium import signed_in
from tests.servers import UPSTREAM_KEY, Server, fetch

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
PAYLOAD = '"\'><img src=x onerror="window.ran=1;alert(1)"><script>window.ran=1</script>'


def create_project(page: Page, name: str) -> None:
    page.goto("/admin/projects/new")
    page.get_by_label("Name").fill(name)
    page.get_by_label("API key").fill(UPSTREAM_KEY)
    page.get_by_role("button", name="Create project").click()
    expect(page.get_by_role("heading", name=name, level=1)).to_be_visible()


def issue_token(page: Page, label: str) -> str:
    page.goto("/admin/tokens/new")
    page.get_by_label("Label").fill(label)
    page.get_by_role("button", name="Issue token").click()
    return page.get_by_label("The new token").input_value()


def call(server: Server, secret: str) -> int:
    return fetch(server.url, "POST", "/v1/chat/completions", {"Authorization": f"Bearer {secret}"}, CHAT)[0]


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
def test_an_operators_day(chromium: Browser, fresh_proxy: Server, scripts: bool):
    with signed_in(chromium, fresh_proxy, scripts=scripts) as page:
        page.goto("/admin/")
        page.get_by_role("link", name="New project").or_(page.get_by_role("button", name="New project")).click()
        create_project(page, "Support")
        expect(page.get_by_role("status")).to_contain_text("Created the project “Support”")

        secret = issue_token(page, "ci")
        assert call(fresh_proxy, secret) == 200
        fresh_proxy.wait_for_records(1)

        page.goto("/admin/requests")
        page.locator("tbody a").first.click()
        expect(page.locator("h1")).to_contain_text("/v1/chat/completions")

        page.goto("/admin/tokens")
        page.get_by_role("link", name="ci").click()
        page.get_by_label("Label").fill("renamed")
        page.get_by_label("Requests per hour").fill("1")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("heading", name="renamed", level=1)).to_be_visible()
        assert call(fresh_proxy, secret) == 429

        page.get_by_text("Revoke…").click()
        page.get_by_role("button", name="Revoke token").click()
        expect(page.get_by_role("status")).to_contain_text("Revoked.")
        assert call(fresh_proxy, secret) == 401

        page.goto("/admin/projects")
        page.get_by_role("link", name="Support", exact=True).click()
        page.get_by_role("button", name="Switch off…").click()
        page.get_by_role("button", name="Switch off", exact=True).click()
        expect(page.get_by_text("Switched off.")).to_be_visible()
        page.get_by_text("Delete…").click()
        page.get_by_role("button", name="Delete project").click()
        expect(page.get_by_text("No projects yet")).to_be_visible()

        page.goto("/admin/audit")
        for words in ("created the project", "issued the token", "changed the token", "revoked the token", "deleted"):
            expect(page.get_by_text(words).first).to_be_visible()
        assert secret not in page.content() and UPSTREAM_KEY not in page.content()


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
def test_a_double_click_does_its_work_once(chromium: Browser, fresh_proxy: Server, scripts: bool):
    with signed_in(chromium, fresh_proxy, scripts=scripts) as page:
        page.goto("/admin/projects/new")
        page.get_by_label("Name").fill("Once")
        page.get_by_label("API key").fill(UPSTREAM_KEY)
        page.get_by_role("button", name="Create project").dblclick()
        expect(page.get_by_role("heading", name="Once", level=1)).to_be_visible()
        page.goto("/admin/tokens/new")
        page.get_by_role("button", name="Issue token").dblclick()
        secret = page.get_by_label("The new token").input_value()

        assert call(fresh_proxy, secret) == 200
        assert len(fresh_proxy.manage("GET", "/projects")[1]["data"]) == 1
        assert len(fresh_proxy.manage("GET", "/tokens")[1]["data"]) == 1


def tab_to(page: Page, words: str) -> None:
    """Press Tab until what has the focus is called so, whether by its label or by its text."""
    for _ in range(80):
        page.keyboard.press("Tab")
        named = "(it) => ((it.labels && it.labels[0]) || it).innerText.trim().split('\\n')[0]"
        if page.evaluate(f"({named})(document.activeElement)") == words:
            return
    raise AssertionError(f"no Tab leads to {words!r}")


def enter(page: Page) -> None:
    """Press Enter where it leads to another page."""
    with page.expect_navigation():
        page.keyboard.press("Enter")


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
def test_an_operators_day_takes_no_pointer(chromium: Browser, fresh_proxy: Server, scripts: bool):
    with signed_in(chromium, fresh_proxy, scripts=scripts) as page:
        page.goto("/admin/projects/new")
        for label, words in (("Name", "Support"), ("API key", UPSTREAM_KEY)):
            tab_to(page, label)
            page.keyboard.type(words)
        enter(page)
        expect(page.locator("h1")).to_have_text("Support")

        tab_to(page, "Issue token")
        enter(page)
        tab_to(page, "Label optional")
        page.keyboard.type("ci")
        enter(page)
        secret = page.get_by_label("The new token").input_value()
        assert call(fresh_proxy, secret) == 200

        tab_to(page, "Tokens")
        enter(page)
        tab_to(page, "ci")
        enter(page)
        tab_to(page, "New secret…")
        enter(page)
        tab_to(page, "Make a new secret")
        enter(page)
        assert call(fresh_proxy, page.get_by_label("The new token").input_value()) == 200

        page.goto("/admin/tokens")
        tab_to(page, "ci")
        enter(page)
        tab_to(page, "Revoke…")
        enter(page)
        tab_to(page, "Revoke token")
        enter(page)
        expect(page.get_by_role("status")).to_contain_text("Revoked.")
        assert call(fresh_proxy, secret) == 401


def test_copy_buttons_copy(chromium: Browser, fresh_proxy: Server):
    with signed_in(chromium, fresh_proxy) as page:
        create_project(page, "Support")
        secret = issue_token(page, "ci")
        page.evaluate("window.setTimeout = () => 0")  # which takes the word away again

        for source in ("secret", "snippet-curl"):
            button = page.locator(f"[data-copy={source}]")
            button.click()
            expect(button).to_have_text("Copied")
            copied = page.evaluate("navigator.clipboard.readText()")
            assert copied == secret if source == "secret" else copied.startswith("curl ") and secret in copied
        assert f"{fresh_proxy.url}/v1/chat/completions" in copied


def test_twenty_leaked_tokens_are_revoked_in_five_clicks(chromium: Browser, fresh_proxy: Server):
    projects = [fresh_proxy.create_project(), fresh_proxy.create_project()]
    leaked = [fresh_proxy.issue_token(projects[number % 2]) for number in range(20)]
    kept = fresh_proxy.issue_token(projects[0])
    with signed_in(chromium, fresh_proxy) as page:
        page.goto("/admin/tokens")
        page.get_by_label("Label, ids or secrets").click()
        page.keyboard.insert_text("\n".join(token.secret for token in leaked))
        page.keyboard.press("Enter")
        page.wait_for_url("**/admin/tokens?q=*")
        page.get_by_label("Select all on this page").click()
        page.get_by_role("button", name="Revoke selected…").click()
        page.get_by_role("button", name="Revoke", exact=True).click()

        expect(page.get_by_text("Revoked 20 tokens.")).to_be_visible()
    states = {token["id"]: token["is_active"] for token in fresh_proxy.manage("GET", "/tokens")[1]["data"]}
    assert states == dict.fromkeys((token.id for token in leaked), False) | {kept.id: True}


def test_what_was_downloaded_may_be_revoked_then(chromium: Browser, fresh_proxy: Server):
    fresh_proxy.issue_token()
    with signed_in(chromium, fresh_proxy) as page:
        page.goto("/admin/tokens")
        page.locator("tbody input[type=checkbox]").check()
        for _ in range(2):
            with page.expect_download() as download:
                page.get_by_role("button", name="Download selected").click()
            assert download.value.suggested_filename == "tokens.csv"
        page.get_by_role("button", name="Revoke selected…").click()

        expect(page.get_by_role("button", name="Revoke", exact=True)).to_be_visible()


def test_who_burned_the_money_one_evening_takes_two_clicks(chromium: Browser, used_proxy: Server):
    with signed_in(chromium, used_proxy) as page:
        page.goto("/admin/")
        page.get_by_role("link", name="7 days").click()
        chart = page.locator(".charts figure", has_text="Cost").locator(".u-over")
        box = chart.bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.95, box["y"] + 40, steps=4)
        page.mouse.up()

        expect(page.get_by_role("heading", name="Costliest projects")).to_be_visible()
        expect(page.get_by_role("heading", name="Costliest tokens")).to_be_visible()
        query = parse_qs(urlsplit(page.url).query)
        begin, end = (datetime.fromisoformat(query[name][0]) for name in ("from", "to"))
        assert timedelta(hours=20) < end - begin < timedelta(hours=30)  # 15 % of a week, and what the frame adds
        expect(page.get_by_label("From (UTC)")).to_have_value(query["from"][0])


def test_a_click_on_a_bar_leads_to_its_hours_requests(chromium: Browser, used_proxy: Server):
    with signed_in(chromium, used_proxy) as page:
        page.goto("/admin/")
        chart = page.locator(".charts figure .u-over").first
        box = chart.bounding_box()
        page.mouse.click(box["x"] + box["width"] * 0.9, box["y"] + 60)

        page.wait_for_url("**/admin/requests?from=*&to=*")
        query = parse_qs(urlsplit(page.url.replace("%3A", ":")).query)
        begin, end = (datetime.fromisoformat(query[name][0]) for name in ("from", "to"))
        assert end - begin == timedelta(hours=1)


def test_why_a_call_failed_is_told_by_its_id_in_three_clicks(chromium: Browser, used_proxy: Server):
    with signed_in(chromium, used_proxy) as page:
        page.goto("/admin/requests?outcome=upstream_timeout")
        failed = page.locator("tbody a").first.get_attribute("href").split("/")[-1].split("?")[0]

        page.goto("/admin/requests")
        page.get_by_text("More filters").click()
        page.get_by_label("Request id").fill(failed)
        page.get_by_role("button", name="Show").click()
        page.locator("tbody th a").first.click()

        expect(page.get_by_text("The upstream did not answer in time.")).to_be_visible()


@pytest.mark.parametrize(
    ("path", "field", "choice", "address"),
    [
        ("requests", "Outcome", "refused", "requests?outcome=refused"),
        ("tokens", "State", "live", "tokens?state=live&order=newest"),
        ("projects", "State", "on", "projects?state=on&order=name"),
        ("audit?actor=admin", "Changes of", "token", "audit?type=token&actor=admin"),
    ],
)
def test_a_choice_acts_at_once(
    chromium: Browser, used_proxy: Server, path: str, field: str, choice: str, address: str
):
    with signed_in(chromium, used_proxy) as page:
        page.goto(f"/admin/{path}")
        page.get_by_label(field).select_option(choice)

        page.wait_for_url(f"**/admin/{address}")
        expect(page.get_by_label(field)).to_have_value(choice)
        expect(page.get_by_label(field)).to_be_focused()


@pytest.mark.parametrize(
    ("path", "field", "text", "address", "following"),
    [
        ("requests?model=gpt", "Status", "4xx", "requests?status=4xx&model=gpt", "Error code"),
        ("tokens?state=live", "Label, ids or secrets", "ci", "tokens?q=ci&state=live&order=newest", "Project"),
        ("projects", "Name, id or secret", "a", "projects?q=a&order=name", "State"),
        ("audit", "By", "admin", "audit?actor=admin", "From (UTC)"),
    ],
)
def test_a_written_filter_acts_when_its_field_is_left_and_the_keyboard_goes_on(
    chromium: Browser, used_proxy: Server, path: str, field: str, text: str, address: str, following: str
):
    with signed_in(chromium, used_proxy) as page:
        page.goto(f"/admin/{path}")
        page.get_by_label(field, exact=True).fill(text)
        page.keyboard.press("Tab")

        page.wait_for_url(f"**/admin/{address}")
        expect(page.get_by_label(following, exact=True)).to_be_focused()


def test_the_way_out_of_a_failed_call_has_the_focus(chromium: Browser, used_proxy: Server):
    with signed_in(chromium, used_proxy) as page:
        page.goto("/admin/requests?code=rate_limit_exceeded&outcome=refused")
        page.locator("tbody th a").first.click()
        page.get_by_role("button", name="Raise the limit").click()

        expect(page.get_by_label("Requests per hour")).to_be_focused()


def test_a_chosen_span_goes_before_the_times_that_stood_there(chromium: Browser, used_proxy: Server):
    with signed_in(chromium, used_proxy) as page:
        page.goto("/admin/requests?from=2026-11-23T18:00&to=2026-11-23T19:00")
        page.get_by_label("When").select_option("1h")

        page.wait_for_url("**/admin/requests?span=1h")
        page.get_by_text("More filters").click()
        page.get_by_label("From (UTC)").fill("2026-11-23T18:00")
        page.get_by_role("button", name="Show").click()

        page.wait_for_url("**/admin/requests?from=2026-11-23T18*00")


def test_times_are_entered_in_the_readers_zone_and_stand_in_addresses_in_utc(chromium: Browser, used_proxy: Server):
    with signed_in(chromium, used_proxy, time_zone="America/New_York") as page:
        page.goto("/admin/requests?from=2026-11-23T18:00")
        begins = page.get_by_label("From (America/New_York)")
        expect(begins).to_have_value("2026-11-23T13:00")
        begins.fill("2026-11-23T14:30")
        begins.blur()

        page.wait_for_url("**/admin/requests?from=2026-11-23T19*30")
        expect(begins).to_have_value("2026-11-23T14:30")


def test_times_move_on_in_the_servers_words(chromium: Browser, fresh_proxy: Server):
    fresh_proxy.issue_token()
    with signed_in(chromium, fresh_proxy) as page:
        page.clock.install()
        page.goto("/admin/audit")
        issued = page.locator("main time").first
        before = issued.text_content()
        page.clock.fast_forward("03:00:00")
        page.clock.run_for(10_000)

        expect(issued).not_to_have_text(before or "")
        now = utc_now()
        for seconds in (-1, -30, -89, -120, -7000, -200_000, -3_000_000, -9e7, 30, 4000, 100_000):
            assert page.evaluate(f"relative({seconds})") == relative(now + timedelta(seconds=seconds), now)


def test_presets_fill_in_the_lifetime(chromium: Browser, fresh_proxy: Server):
    fresh_proxy.create_project()
    with signed_in(chromium, fresh_proxy) as page:
        page.goto("/admin/tokens/new")
        page.get_by_role("button", name="1 week").click()

        assert page.get_by_label("Lifetime in hours").input_value() == "168"


def test_the_live_view_shows_calls_as_they_come_and_leads_to_those_that_made_room(
    chromium: Browser, fresh_proxy: Server
):
    token = fresh_proxy.issue_token()
    with signed_in(chromium, fresh_proxy) as page:
        page.clock.install()
        page.goto("/admin/requests")
        expect(page.get_by_text("No requests yet")).to_be_visible()
        live = page.get_by_role("button", name="Live")
        live.click()
        expect(live).to_have_attribute("aria-pressed", "true")

        call(fresh_proxy, token.secret)

        expect(page.locator("tbody tr")).to_have_count(1)
        expect(page.get_by_text("No requests yet")).to_have_count(0)
        call(fresh_proxy, token.secret)
        expect(page.locator("tbody tr")).to_have_count(2)
        older = page.get_by_role("link", name="The requests before these")
        for count in (52, 102, 152, 202):
            expect(older).to_be_hidden()
            for _ in range(50):
                call(fresh_proxy, token.secret)
            fresh_proxy.wait_for_records(count)
            page.clock.run_for(2000)
            expect(page.locator("tbody tr")).to_have_count(min(count, 200))
        live.click()
        expect(live).to_have_attribute("aria-pressed", "false")

        older.click()
        expect(page.locator("tbody tr")).to_have_count(2)
        shown = [link.get_attribute("href") for link in page.locator("tbody th a").all()]
        first, second = (record["request_id"] for record in fresh_proxy.records()[:2])
        assert second in shown[0] and first in shown[1]


def test_nothing_that_callers_or_operators_wrote_runs(chromium: Browser, fresh_proxy: Server):
    project = fresh_proxy.create_project(name=PAYLOAD)
    token = fresh_proxy.issue_token(project, label=PAYLOAD)
    call(fresh_proxy, token.secret)
    fetch(
        fresh_proxy.url,
        "POST",
        "/v1/%3Cimg%20src=x%20onerror=alert(1)%3E",
        {"Authorization": f"Bearer {token.secret}", "User-Agent": PAYLOAD},
        CHAT | {"model": PAYLOAD},
    )
    record = fresh_proxy.wait_for_records(2)[-1]
    with signed_in(chromium, fresh_proxy) as page:
        for path in (
            "/admin/",
            "/admin/projects",
            f"/admin/projects/{project}",
            f"/admin/projects/{project}/delete",
            "/admin/tokens",
            "/admin/tokens/new",
            f"/admin/tokens/{token.id}",
            "/admin/requests",
            f"/admin/requests/{record['request_id']}",
            "/admin/audit",
        ):
            page.goto(path)
            assert page.evaluate("window.ran") is None, path
            assert page.locator("main img").count() == 0, path
        page.goto("/admin/requests")
        page.get_by_role("button", name="Live").click()
        call(fresh_proxy, token.secret)
        expect(page.locator("tbody tr")).to_have_count(3)
        assert page.evaluate("window.ran") is None


@pytest.fixture
def other_site() -> Iterator[str]:
    """A site elsewhere whose page sends a form to the address in its query."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            target = self.path.partition("?")[2]
            body = (
                f'<form method="post" action="{target}/admin/projects"><input name="name" value="forged">'
                '<input name="openai_api_key" value="sk-forged-key"></form>'
                "<script>document.forms[0].submit()</script>"
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_another_site_cannot_use_the_operators_browser(chromium: Browser, fresh_proxy: Server, other_site: str):
    with signed_in(chromium, fresh_proxy) as page:
        page.goto("/admin/projects/new")
        with page.expect_response(lambda answer: answer.request.method == "POST") as sent:
            page.goto(f"{other_site}/?{fresh_proxy.url}")

        assert sent.value.status == 403
        expect(page.get_by_role("heading", name="This came from another site")).to_be_visible()
        assert fresh_proxy.manage("GET", "/projects")[1]["data"] == []


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
def test_rules_are_tried_and_set_by_the_keyboard_alone(chromium: Browser, fresh_proxy: Server, scripts: bool):
    token = fresh_proxy.issue_token()

    def rules():
        return fresh_proxy.manage("GET", f"/tokens/{token.id}")[1]["rules"]

    with signed_in(chromium, fresh_proxy, scripts=scripts) as page:
        page.goto(f"/admin/rules?token_id={token.id}")
        page.get_by_label("Models optional").focus()
        page.keyboard.type("gpt-5*")
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.type("chat")
        page.get_by_label("Body").focus()
        page.keyboard.type('{"model": "o3"}')
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_contain_text("It would be refused.")
        expect(page.get_by_role("status")).to_be_focused()
        # Enter in a field tries, and saves nothing.
        page.get_by_label("Models optional").focus()
        page.keyboard.press("End")
        page.keyboard.type(", o3")
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_contain_text("It would pass.")
        assert rules() is None

        page.get_by_role("button", name="Save rules").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_contain_text("Saved the rules.")
        assert rules() == {"mode": "enforce", "models": ["gpt-5*", "o3"], "endpoints": ["chat"]}
        page.goto(f"/admin/rules?token_id={token.id}")
        page.get_by_role("button", name="Remove…").press("Enter")
        page.get_by_role("button", name="Remove rules").press("Enter")
        expect(page.get_by_role("status")).to_contain_text("Took the rules away.")
        assert rules() is None
