"""The latest records, looked for from the end of the ledger backwards."""

import os
from pathlib import Path

import orjson
import pytest

from llmproxy.api_log import latest
from llmproxy.api_log.latest import Filter, Place, read_at, search

EVERYTHING = Filter()


def line(number: int, **changes: object) -> bytes:
    record = {
        "timestamp": "2026-11-23T12:00:00.000Z",
        "request_id": f"request-{number}",
        "token": f"token-{number % 3}",
        "project_id": "project-a",
        "status_code": 200,
        "metadata": {"model": "gpt-4o-mini"},
        "outcome": "complete",
    }
    return orjson.dumps(record | changes) + b"\n"


def ids(found: latest.Found) -> list[int]:
    return [int(record.request_id.rpartition("-")[2]) for _, record in found.records]


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Thirty records in three segments."""
    path = tmp_path / "api_logs.jsonl"
    lines = [line(number) for number in range(30)]
    path.with_name("api_logs.20261123T100000000000Z.jsonl").write_bytes(b"".join(lines[:10]))
    path.with_name("api_logs.20261123T110000000000Z.jsonl").write_bytes(b"".join(lines[10:20]))
    path.write_bytes(b"".join(lines[20:]))
    return path


def test_there_is_nothing_in_an_empty_ledger(tmp_path: Path):
    found = search(tmp_path / "api_logs.jsonl", EVERYTHING, limit=5)

    assert (found.records, found.end, found.older) == ([], None, None)


def test_the_latest_comes_first_and_over_segments(ledger: Path):
    found = search(ledger, EVERYTHING, limit=100)

    assert ids(found) == list(range(29, -1, -1))
    assert found.older is None


def test_searches_go_on_where_the_last_one_ended(ledger: Path):
    seen, before = [], None
    while True:
        found = search(ledger, EVERYTHING, limit=7, before=before)
        seen += ids(found)
        if (before := found.older) is None:
            break

    assert seen == list(range(29, -1, -1))


@pytest.mark.parametrize("block", [1, 100, 333, 1 << 20])
def test_blocks_of_any_size_bring_the_same(ledger: Path, monkeypatch: pytest.MonkeyPatch, block: int):
    monkeypatch.setattr(latest, "_BLOCK_BYTES", block)

    assert ids(search(ledger, EVERYTHING, limit=100)) == list(range(29, -1, -1))
    assert ids(search(ledger, Filter(token_id="token-1"), limit=100)) == list(range(28, -1, -3))


def test_the_work_of_one_search_is_bounded_and_goes_on_later(ledger: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(latest, "_BLOCK_BYTES", 300)
    monkeypatch.setattr(latest, "SEARCH_BYTES", 1000)
    wanted = Filter(request_id="request-0")
    found, searches = search(ledger, wanted, limit=1), 1
    while not found.records:
        assert found.older is not None and found.searched_bytes < 2000
        found, searches = search(ledger, wanted, limit=1, before=found.older), searches + 1

    assert ids(found) == [0] and searches > 3


def test_lines_that_only_look_right_are_bounded_too(ledger: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(latest, "SEARCH_LINES", 4)
    # Its needle stands in every line, within another field.
    ledger.write_bytes(b"".join(line(number, note={"outcome": "refused"}) for number in range(20, 30)))

    found = search(ledger, Filter(outcome="refused"), limit=5)

    assert found.records == [] and found.older is not None


def test_places_lead_back_to_their_record(ledger: Path):
    for place, record in search(ledger, EVERYTHING, limit=100).records:
        assert read_at(ledger, Place.parse(str(place))).line == record.line


def test_a_place_survives_rotation(ledger: Path):
    place, record = search(ledger, EVERYTHING, limit=1).records[0]
    ledger.rename(ledger.with_name("api_logs.20261123T120000000000Z.jsonl"))

    assert read_at(ledger, place).line == record.line


@pytest.mark.parametrize(
    "text", ["", ".", "a", "a.", ".5", "a.-1", "a.1.2", "a/../b.1", "a.٥", "a." + "9" * 19, "a.1 "]
)
def test_a_text_that_is_no_place_is_none(text: str):
    assert Place.parse(text) is None


def test_a_place_in_a_segment_that_is_gone_brings_nothing(ledger: Path):
    gone = Place("0" * 24, 5)

    assert read_at(ledger, gone) is None
    assert search(ledger, EVERYTHING, limit=5, before=gone).records == []


def test_a_line_whose_end_is_not_yet_written_is_no_record(ledger: Path):
    place = search(ledger, EVERYTHING, limit=1).records[0][0]
    os.truncate(ledger, ledger.stat().st_size - 1)

    assert read_at(ledger, place) is None


def test_a_place_in_the_middle_of_a_line_or_past_the_end_is_no_record(ledger: Path):
    place = search(ledger, EVERYTHING, limit=1).records[0][0]

    assert read_at(ledger, Place(place.segment, place.offset + 3)) is None
    assert read_at(ledger, Place(place.segment, 10**9)) is None


def test_only_what_came_after_a_place_is_looked_at(ledger: Path):
    end = search(ledger, EVERYTHING, limit=1).end
    with ledger.open("ab") as file:
        file.write(line(30) + line(31))

    assert ids(search(ledger, EVERYTHING, limit=100, until=end)) == [31, 30]


def test_what_came_after_a_place_is_found_over_a_rotation(ledger: Path):
    end = search(ledger, EVERYTHING, limit=1).end
    with ledger.open("ab") as file:
        file.write(line(30))
    ledger.rename(ledger.with_name("api_logs.20261123T120000000000Z.jsonl"))
    ledger.write_bytes(line(31))

    assert ids(search(ledger, EVERYTHING, limit=100, until=end)) == [31, 30]


@pytest.mark.parametrize(
    ("wanted", "changes"),
    [
        (Filter(project_id="b"), {"project_id": "b"}),
        (Filter(websocket="w"), {"request_id": "w-30", "part": 30}),
        (Filter(token_id="t"), {"token": "t"}),
        (Filter(outcome="refused"), {"outcome": "refused"}),
        (Filter(status="429"), {"status_code": 429}),
        (Filter(status="5"), {"status_code": 503}),
        (Filter(model="o4"), {"metadata": {"model": "o4-mini"}}),
        (Filter(model='a"b\\ü'), {"metadata": {"model": 'a"b\\ü-1'}}),
        (Filter(failed=True), {"outcome": "refused", "status_code": 401}),
        (Filter(failed=True), {"outcome": "upstream_timeout", "status_code": 504}),
        (Filter(failed=True), {"status_code": 400}),
        (Filter(failed=True), {"failed_inside": True, "error": {"code": "x"}}),
        (Filter(errors=True), {"outcome": "upstream_timeout", "status_code": 504}),
        (Filter(project_id=""), {"project_id": None}),
        (Filter(token_id=""), {"token": None}),
        (Filter(billed_model="o4"), {"metadata": {"model": "o4"}}),
        (Filter(billed_model="o4"), {"metadata": None, "upstream_status": 200, "requested_model": "o4"}),
        (Filter(billed_model=""), {"metadata": None, "upstream_status": 404, "requested_model": "o4"}),
        (Filter(code="", outcome="refused"), {"outcome": "refused", "error": {"code": None, "type": "x"}}),
        (Filter(lacks="price"), {"cost_source": "unpriced"}),
        (Filter(lacks="price"), {"usage_source": "reported"}),
        (Filter(lacks="usage"), {"stream": True, "usage_source": "absent"}),
        (Filter(outcome="refused", status="4"), {"outcome": "refused", "status_code": 401}),
    ],
    ids=str,
)
def test_each_filter_finds_its_record_alone(ledger: Path, wanted: Filter, changes: dict[str, object]):
    with ledger.open("ab") as file:
        file.write(line(30, **changes) + line(31))

    assert ids(search(ledger, wanted, limit=100)) == [30]


def test_a_status_is_not_found_in_a_longer_number(ledger: Path):
    with ledger.open("ab") as file:
        file.write(line(30, status_code=4290))

    assert search(ledger, Filter(status="429"), limit=5).records == []


@pytest.mark.parametrize(
    "damage", [b"not json\n", b"\n\n", b'{"timestamp":"2026', b"\xff\xfe\n", b'{"request_id":1}\n']
)
def test_damaged_lines_are_stepped_over(ledger: Path, damage: bytes):
    with ledger.open("ab") as file:
        file.write(damage)

    assert ids(search(ledger, EVERYTHING, limit=2)) == [29, 28]
    assert ids(search(ledger, Filter(request_id="request-29"), limit=2)) == [29]
