"""ADMIN_TIME_ZONE: the zone of the pages' times, and of the days in their charts."""

import html
import json
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import pytest
from flask import Flask

from tests.blueprints.admin.site import Browser, forms_of
from tests.blueprints.admin.test_pages import Write, roll_up
from tests.blueprints.admin.test_tokens import issue, stored

ZONES = ["Europe/Berlin", "America/Los_Angeles", "Asia/Kolkata"]


@pytest.fixture
def a_call(app: Flask, write_record: Write) -> None:
    """One that was counted: before it there are no charts."""
    write_record()
    roll_up(app)


def starts_of(text: str) -> tuple[str, list[datetime]]:
    """The zone of the first chart on a page, and when its periods begin."""
    found = re.search(r'data-chart="([^"]+)"', text)
    assert found
    data = json.loads(html.unescape(found[1]))
    return data["zone"], [datetime.fromtimestamp(start, ZoneInfo(data["zone"])) for start in data["starts"]]


@pytest.mark.parametrize("time_zone", ZONES)
def test_times_are_told_in_the_zone(browser: Browser, write_record: Write, time_zone: str):
    moment = datetime.now(UTC) - timedelta(hours=3)
    write_record(timestamp=moment.timestamp())

    exact = moment.astimezone(ZoneInfo(time_zone)).strftime("%Y-%m-%d %H:%M:%S %Z")
    with_utc = exact if exact.endswith("UTC") else f"{exact}, {moment:%Y-%m-%d %H:%M:%S} UTC"
    assert f'title="{with_utc}"' in browser.get("/admin/requests").text


@pytest.mark.parametrize("time_zone", ["Europe/Berlin", "America/Los_Angeles"])
@pytest.mark.usefixtures("a_call")
def test_days_of_charts_begin_at_the_zone_s_midnight(browser: Browser, time_zone: str):
    text = browser.get("/admin/?span=30d").text

    zone, starts = starts_of(text)
    today = datetime.now(ZoneInfo(time_zone)).date()
    assert zone == time_zone and f"The last 30 days, in {time_zone}." in text and "Days are those of UTC" not in text
    assert {(start.hour, start.minute) for start in starts} == {(0, 0)}
    assert [start.date() for start in starts] == [today - timedelta(days=ago) for ago in reversed(range(30))]


@pytest.mark.parametrize("time_zone", ["Asia/Kolkata"])
@pytest.mark.usefixtures("a_call")
def test_days_that_cannot_be_told_stay_those_of_utc_and_the_page_says_so(browser: Browser, time_zone: str):
    text = browser.get("/admin/?span=30d").text

    zone, starts = starts_of(text)
    assert zone == "UTC" and {(start.hour, start.minute) for start in starts} == {(0, 0)}
    assert "Days are those of UTC: Asia/Kolkata is off from it by a part of an hour" in text


@pytest.mark.parametrize("time_zone", ["Asia/Kolkata"])
@pytest.mark.usefixtures("a_call")
def test_hours_are_told_as_they_are(browser: Browser, time_zone: str):
    text = browser.get("/admin/?span=24h").text

    zone, starts = starts_of(text)
    assert zone == "Asia/Kolkata" and {start.minute for start in starts} == {30}
    assert f">{starts[0]:%H:%M}</a></th>" in text and "Days are those of UTC" not in text


@pytest.mark.parametrize("time_zone", ZONES)
@pytest.mark.parametrize("span", ["24h", "7d", "30d"])
@pytest.mark.usefixtures("a_call")
def test_all_that_was_counted_is_in_the_charts(browser: Browser, time_zone: str, span: str):
    found = re.findall(r'data-chart="([^"]+)"', browser.get(f"/admin/?span={span}").text)
    assert sum(json.loads(html.unescape(found[0]))["series"][0]["values"]) == 1


@pytest.mark.parametrize("time_zone", ["Europe/Berlin"])
def test_an_expiry_is_entered_in_the_zone(app: Flask, browser: Browser, time_zone: str):
    token = issue(app, browser.create_project())
    path = f"/admin/tokens/{token.id}"
    soon = datetime.now(ZoneInfo(time_zone)).replace(second=0, microsecond=0) + timedelta(days=30)

    page = browser.get(path).text
    browser.submit(path, path, expires_at=soon.strftime("%Y-%m-%dT%H:%M"))

    assert "Expires at (Europe/Berlin)" in page
    assert f'value="{token.expires_at.astimezone(ZoneInfo(time_zone)):%Y-%m-%dT%H:%M}"' in page
    assert stored(app, token.id).expires_at == soon


@pytest.mark.parametrize("time_zone", ["Europe/Berlin"])
@pytest.mark.parametrize("text", ["", "tomorrow", "2026-13-01T00:00", "2026-11-30T00:00+01:00", "0001-01-01T00:00"])
def test_what_is_no_time_is_refused_beside_its_field(app: Flask, browser: Browser, time_zone: str, text: str):
    token = issue(app, browser.create_project())
    path = f"/admin/tokens/{token.id}"

    answer = browser.submit(path, path, expires_at=text)

    assert answer.status_code == 400 and stored(app, token.id).expires_at == token.expires_at


@pytest.mark.parametrize("time_zone", ["Europe/Berlin"])
def test_requests_are_looked_for_by_times_of_the_zone(browser: Browser, time_zone: str):
    sent = {"from": "2026-11-23T19:30", "to": "2026-11-23T20:00"}

    answer = browser.submit("/admin/requests", "/admin/requests", **sent)

    address = answer.headers["Location"]
    query = parse_qs(urlsplit(address).query)
    assert query == {"from": ["2026-11-23T18:30"], "to": ["2026-11-23T19:00"]}  # in UTC, as every list has them
    fields = browser.form(address, "/admin/requests").fields
    assert {name: fields[name] for name in sent} == sent
    assert f"From ({time_zone})" in browser.get(address).text


@pytest.mark.parametrize("time_zone", ["Europe/Berlin"])
def test_a_time_that_is_none_stays_in_its_field_beside_one_that_is(browser: Browser, time_zone: str):
    sent = {"from": "2026-11-23T19:30", "to": "tomorrow"}
    fields = browser.form("/admin/requests", "/admin/requests").fields | sent

    answer = browser.post("/admin/requests", fields)

    again = next(form for form in forms_of(answer) if form.action == "/admin/requests")
    assert answer.status_code == 400 and f"in {time_zone}." in answer.text
    assert {name: again.fields[name] for name in sent} == sent


@pytest.mark.parametrize("time_zone", [None, "Pacific/Kiritimati", "Pacific/Pago_Pago"])
@pytest.mark.parametrize("moment", ["0001-01-01T00:00", "9999-12-31T23:59"])
def test_the_first_and_the_last_moment_that_there_are_are_no_fault(
    browser: Browser, time_zone: str | None, moment: str
):
    fields = browser.form("/admin/requests", "/admin/requests").fields

    assert browser.get(f"/admin/requests?from={moment}").status_code == 400
    assert browser.post("/admin/requests", fields | {"to": moment}).status_code == 400


@pytest.mark.parametrize("time_zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_days_of_the_audit_trail_are_those_of_the_zone(browser: Browser, time_zone: str):
    browser.create_project("today's")
    today = datetime.now(ZoneInfo(time_zone)).date()

    def shows(day) -> bool:
        return "created the project" in browser.get(f"/admin/audit?from={day}&to={day}").text

    assert shows(today) and not shows(today - timedelta(days=1)) and not shows(today + timedelta(days=1))


@pytest.mark.parametrize("time_zone", [None, "Pacific/Kiritimati", "Pacific/Pago_Pago"])
@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
def test_the_first_and_the_last_day_that_there_are_are_no_fault(browser: Browser, time_zone: str | None, day: str):
    assert browser.get(f"/admin/audit?from={day}&to={day}").status_code == 200
