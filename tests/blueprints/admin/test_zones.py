"""The reader's zone: that of the pages' times, of the times that are entered, and of the days in charts."""

import html
import json
import re
from datetime import UTC, date, datetime, timedelta
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import pytest
from flask import Flask
from sqlalchemy import select

from blueprints.admin.spans import SPANS
from models import Meter, db
from tests.blueprints.admin.site import Browser, forms_of
from tests.blueprints.admin.test_pages import Write, roll_up
from tests.blueprints.admin.test_tokens import issue, stored

ZONES = ["Europe/Berlin", "America/Los_Angeles", "Asia/Kolkata"]
CONFIGURED = "Pacific/Auckland"


@pytest.fixture
def time_zone() -> str:
    """ADMIN_TIME_ZONE, which holds for readers whose browser tells none."""
    return CONFIGURED


@pytest.fixture
def reader_zone() -> str | None:
    """What the reader's browser tells; None for nothing."""
    return None


@pytest.fixture
def browser(app: Flask, reader_zone: str | None) -> Browser:
    return reading_in(Browser(app), reader_zone)


def reading_in(browser: Browser, zone: str | None) -> Browser:
    """The browser, whose script has told its zone."""
    if zone:
        browser.client.set_cookie("admin_time_zone", zone, path="/admin/")
    return browser


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


@pytest.mark.parametrize("reader_zone", ZONES)
def test_times_are_told_in_the_zone(browser: Browser, write_record: Write, reader_zone: str):
    moment = datetime.now(UTC) - timedelta(hours=3)
    write_record(timestamp=moment.timestamp())

    exact = moment.astimezone(ZoneInfo(reader_zone)).strftime("%Y-%m-%d %H:%M:%S %Z")
    in_utc = f"{moment:%Y-%m-%d %H:%M:%S} UTC"
    # The day is said once, where it is the same.
    utc = in_utc[11:] if in_utc[:10] == exact[:10] else in_utc
    assert f'title="{exact}, {utc}"' in browser.get("/admin/requests").text


@pytest.mark.parametrize(
    ("reader_zone", "told", "whose"),
    [
        ("Asia/Calcutta", "Asia/Calcutta", "this browser's zone"),
        (None, CONFIGURED, "set by ADMIN_TIME_ZONE"),
        ("Mars/Olympus", CONFIGURED, "set by ADMIN_TIME_ZONE"),
        ("../../etc/passwd", CONFIGURED, "set by ADMIN_TIME_ZONE"),
        ("x" * 4000, CONFIGURED, "set by ADMIN_TIME_ZONE"),
        ("Europe", CONFIGURED, "set by ADMIN_TIME_ZONE"),
    ],
    ids=["known", "none", "unknown", "a path", "long", "a folder"],
)
def test_a_zone_that_is_none_gives_way_to_the_configured_one_and_the_page_says_whose_it_is(
    browser: Browser, told: str, whose: str
):
    text = html.unescape(browser.get("/admin/").text)

    assert f"Times are those of {told}, {whose}." in text and f'data-zone="{told}"' in text


@pytest.mark.parametrize("reader_zone", ["Europe/Berlin", "America/Los_Angeles"])
@pytest.mark.usefixtures("a_call")
def test_days_of_charts_begin_at_the_zone_s_midnight(browser: Browser, reader_zone: str):
    text = browser.get("/admin/?span=30d").text

    zone, starts = starts_of(text)
    today = datetime.now(ZoneInfo(reader_zone)).date()
    assert zone == reader_zone and f"The last 30 days, in {reader_zone}." in text
    assert "Days are those of UTC" not in text
    assert {(start.hour, start.minute) for start in starts} == {(0, 0)}
    assert [start.date() for start in starts] == [today - timedelta(days=ago) for ago in reversed(range(30))]


@pytest.mark.parametrize("reader_zone", ["Asia/Kolkata"])
@pytest.mark.usefixtures("a_call")
def test_days_that_cannot_be_told_stay_those_of_utc_and_the_page_says_so(browser: Browser, reader_zone: str):
    text = browser.get("/admin/?span=30d").text

    zone, starts = starts_of(text)
    assert zone == "UTC" and {(start.hour, start.minute) for start in starts} == {(0, 0)}
    assert "Days are those of UTC: Asia/Kolkata is off from it by a part of an hour" in text


@pytest.mark.parametrize("reader_zone", ["Asia/Kolkata"])
@pytest.mark.usefixtures("a_call")
def test_hours_are_told_as_they_are(browser: Browser, reader_zone: str):
    text = browser.get("/admin/?span=24h").text

    zone, starts = starts_of(text)
    assert zone == "Asia/Kolkata" and {start.minute for start in starts} == {30}
    assert f">{starts[0]:%H:%M}</a></th>" in text and "Days are those of UTC" not in text


@pytest.mark.parametrize("reader_zone", ZONES)
@pytest.mark.parametrize("span", ["24h", "7d", "30d"])
@pytest.mark.usefixtures("a_call")
def test_all_that_was_counted_is_in_the_charts(browser: Browser, reader_zone: str, span: str):
    found = re.findall(r'data-chart="([^"]+)"', browser.get(f"/admin/?span={span}").text)
    assert sum(json.loads(html.unescape(found[0]))["series"][0]["values"]) == 1


@pytest.mark.parametrize("reader_zone", ["Europe/Berlin"])
def test_an_expiry_is_entered_in_the_zone(app: Flask, browser: Browser, reader_zone: str):
    token = issue(app, browser.create_project())
    path = f"/admin/tokens/{token.id}"
    # At noon, which there is once on every day.
    soon = datetime.now(ZoneInfo(reader_zone)).replace(hour=12, minute=0, second=0, microsecond=0) + timedelta(
        days=30
    )

    page = browser.get(path).text
    browser.submit(path, path, expires_at=soon.strftime("%Y-%m-%dT%H:%M"))

    assert "Expires at (Europe/Berlin)" in page
    assert f'value="{token.expires_at.astimezone(ZoneInfo(reader_zone)):%Y-%m-%dT%H:%M}"' in page
    assert stored(app, token.id).expires_at == soon


@pytest.mark.parametrize("reader_zone", ["Europe/Berlin"])
@pytest.mark.parametrize("text", ["", "tomorrow", "2026-13-01T00:00", "2026-11-30T00:00+01:00", "0001-01-01T00:00"])
def test_what_is_no_time_is_refused_beside_its_field(app: Flask, browser: Browser, reader_zone: str, text: str):
    token = issue(app, browser.create_project())
    path = f"/admin/tokens/{token.id}"

    answer = browser.submit(path, path, expires_at=text)

    assert answer.status_code == 400 and stored(app, token.id).expires_at == token.expires_at


@pytest.mark.parametrize("reader_zone", ["Europe/Berlin"])
def test_requests_are_looked_for_by_times_of_the_zone(browser: Browser, reader_zone: str):
    sent = {"from": "2026-11-23T19:30", "to": "2026-11-23T20:00"}

    answer = browser.submit("/admin/requests", "/admin/requests", **sent)

    address = answer.headers["Location"]
    query = parse_qs(urlsplit(address).query)
    assert query == {"from": ["2026-11-23T18:30"], "to": ["2026-11-23T19:00"]}  # in UTC, as every list has them
    fields = browser.form(address, "/admin/requests").fields
    assert {name: fields[name] for name in sent} == sent
    assert f"From ({reader_zone})" in browser.get(address).text


@pytest.mark.parametrize("reader_zone", ["Europe/Berlin"])
def test_a_time_that_is_none_stays_in_its_field_beside_one_that_is(browser: Browser, reader_zone: str):
    sent = {"from": "2026-11-23T19:30", "to": "tomorrow"}
    fields = browser.form("/admin/requests", "/admin/requests").fields | sent

    answer = browser.post("/admin/requests", fields)

    again = next(form for form in forms_of(answer) if form.action == "/admin/requests")
    assert answer.status_code == 400 and f"in {reader_zone}." in answer.text
    assert {name: again.fields[name] for name in sent} == sent


@pytest.mark.parametrize("reader_zone", [None, "Pacific/Kiritimati", "Pacific/Pago_Pago"])
@pytest.mark.parametrize("moment", ["0001-01-01T00:00", "9999-12-31T23:59"])
def test_the_first_and_the_last_moment_that_there_are_are_no_fault(
    browser: Browser, reader_zone: str | None, moment: str
):
    fields = browser.form("/admin/requests", "/admin/requests").fields

    assert browser.get(f"/admin/requests?from={moment}").status_code == 400
    assert browser.post("/admin/requests", fields | {"to": moment}).status_code == 400


def test_an_address_means_the_same_to_readers_in_other_zones(app: Flask, write_record: Write):
    at = datetime(2026, 11, 23, 18, 45, tzinfo=UTC)
    write_record(timestamp=at.timestamp(), endpoint="/v1/within")
    write_record(timestamp=(at + timedelta(hours=1)).timestamp(), endpoint="/v1/after")
    roll_up(app)
    berlin, tokyo = (reading_in(Browser(app), zone) for zone in ("Europe/Berlin", "Asia/Tokyo"))
    sent = {"from": "2026-11-23T19:30", "to": "2026-11-23T20:00"}

    address = berlin.submit("/admin/requests", "/admin/requests", **sent).headers["Location"]

    for reader in (berlin, tokyo):
        text = reader.get(address).text
        assert "/v1/within" in text and "/v1/after" not in text
    fields = tokyo.form(address, "/admin/requests").fields
    assert (fields["from"], fields["to"]) == ("2026-11-24T03:30", "2026-11-24T04:00")


@pytest.mark.parametrize("reader_zone", ["Europe/Berlin"])
def test_a_form_is_read_in_the_zone_that_it_was_shown_in(app: Flask, browser: Browser, reader_zone: str):
    token = issue(app, browser.create_project())
    path = f"/admin/tokens/{token.id}"
    requests, of_token = browser.form("/admin/requests", "/admin/requests"), browser.form(path, path)
    reading_in(browser, "Asia/Tokyo")  # while both stood open

    answer = browser.post(requests.action, requests.fields | {"from": "2026-11-23T19:30"})
    browser.post(path, of_token.fields | {"expires_at": "2027-01-01T12:00"})

    assert parse_qs(urlsplit(answer.headers["Location"]).query) == {"from": ["2026-11-23T18:30"]}
    assert stored(app, token.id).expires_at == datetime(2027, 1, 1, 11, tzinfo=UTC)


@pytest.mark.parametrize("reader_zone", ["Europe/Berlin"])
@pytest.mark.parametrize(
    ("begin", "end", "meant"),
    [
        # In autumn an hour comes twice, and is meant as a whole; in spring one does not come.
        ("2026-10-25T02:00", "2026-10-25T02:59", ("2026-10-25T00:00", "2026-10-25T01:59")),
        ("2026-03-29T02:30", "2026-03-29T02:30", ("2026-03-29T00:30", "2026-03-29T01:30")),
    ],
    ids=["twice", "never"],
)
def test_hours_around_a_change_of_clocks_are_meant_as_widely_as_they_can_be(
    browser: Browser, begin: str, end: str, meant: tuple[str, str]
):
    answer = browser.submit("/admin/requests", "/admin/requests", **{"from": begin, "to": end})

    query = parse_qs(urlsplit(answer.headers["Location"]).query)
    assert query == {"from": [meant[0]], "to": [meant[1]]}


@pytest.mark.parametrize("reader_zone", ["Europe/Berlin"])
@pytest.mark.parametrize("moment", ["2026-10-25T00:30", "2026-10-25T01:30", "2026-10-25T01:30:15"])
def test_a_time_that_nobody_touched_stays_where_its_hour_comes_twice(browser: Browser, moment: str):
    for page in ("requests", "audit"):
        address = f"/admin/{page}?from={moment}&to={moment}"

        answer = browser.submit(address, f"/admin/{page}")

        query = parse_qs(urlsplit(answer.headers["Location"]).query)
        assert (query["from"], query["to"]) == ([moment], [moment])


def test_an_hour_that_comes_twice_is_told_apart_beside_its_numbers():
    hours = [datetime(2026, 10, 25, hour, tzinfo=UTC).astimezone(ZoneInfo("Europe/Berlin")) for hour in range(3)]

    assert [SPANS["24h"].label(hour) for hour in hours] == ["02:00 CEST", "02:00 CET", "03:00"]
    assert [SPANS["30d"].label(hours[0])] == ["25 Oct"]


@pytest.mark.parametrize("reader_zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_times_of_the_audit_trail_are_those_of_the_zone(browser: Browser, reader_zone: str):
    browser.create_project("today's")
    today = datetime.now(ZoneInfo(reader_zone)).date()

    def shows(day: date) -> bool:
        sent = {"from": f"{day}T00:00", "to": f"{day}T23:59:59"}
        address = browser.submit("/admin/audit", "/admin/audit", **sent).headers["Location"]
        return "created the project" in browser.get(address).text

    assert shows(today) and not shows(today - timedelta(days=1)) and not shows(today + timedelta(days=1))


@pytest.mark.parametrize("reader_zone", [None, "Pacific/Kiritimati", "Pacific/Pago_Pago"])
@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
def test_the_first_and_the_last_day_that_there_are_are_no_fault(browser: Browser, day: str):
    assert browser.get(f"/admin/audit?from={day}&to={day}").status_code == 400


@pytest.mark.parametrize("reader_zone", ["Asia/Tokyo"])
def test_days_of_budgets_stay_those_of_the_operator_and_say_so(browser: Browser, app: Flask):
    project = browser.create_project()

    form = browser.get("/admin/tokens/new").text
    browser.submit("/admin/tokens/new", "/admin/tokens", budget="2.00")

    own = browser.form(f"/admin/limits/new?project_id={project}", "/admin/limits").fields
    assert f"By the days of {CONFIGURED}." in form and own["zone"] == CONFIGURED
    with app.app_context():
        (meter,) = db.session.scalars(select(Meter))
        path = f"/admin/limits/{meter.id}"
    assert f"by the days of {CONFIGURED}" in browser.get(path).text
