"""What is told of failures that go on, and how often."""

import logging

import pytest

from llmproxy.errors import UpstreamTimeout, UpstreamUnreachable
from llmproxy.telemetry import outages


class Clock:
    """The module's clock, which a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Clock:
    clock = Clock()
    monkeypatch.setattr(outages.time, "monotonic", clock)
    monkeypatch.setattr(outages, "_outages", {})
    caplog.set_level(logging.WARNING)
    return clock


def fail(project: str | None = "p", kind: type = UpstreamUnreachable, detail: str = "Connection refused") -> None:
    reason = kind()
    reason.detail = detail
    outages.failed(reason, project_id=project, project_name=f"name of {project}", request_id="r")


def test_the_first_is_told_at_once_with_project_cause_and_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    fail()

    (line,) = caplog.messages
    assert line.startswith("upstream_unreachable in project 'name of p' (p): Connection refused. Try it on /admin/")


def test_a_detail_is_one_line_of_bounded_length(caplog: pytest.LogCaptureFixture) -> None:
    fail(detail="two\nlines\r\n" + "x" * 10_000)

    assert "two lines xxx" in caplog.messages[0] and "\n" not in caplog.messages[0] and len(caplog.messages[0]) < 600


def test_what_follows_is_told_once_a_minute_with_its_number(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    for number in range(30):
        fail(detail=f"refused {number}")
        outages.tell()
    assert len(caplog.messages) == 1

    clock.now_s += 60
    outages.tell()
    outages.tell()

    (line,) = caplog.messages[1:]
    assert line.startswith("29 times more in 60 s: upstream_unreachable in project 'name of p' (p): refused 29")


def test_a_minute_without_one_ends_it(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    fail()
    clock.now_s += 60
    outages.tell()
    fail()

    assert len(caplog.messages) == 2 and caplog.messages[0] == caplog.messages[1]


def test_projects_and_causes_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    for project in ("p", "q"):
        for kind in (UpstreamUnreachable, UpstreamTimeout):
            fail(project, kind)
            fail(project, kind)

    assert len(caplog.messages) == 4


def test_very_many_projects_are_told_of_together(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "MOST", 2)
    for number in range(10):
        fail(str(number))
        fail("1")

    assert len(caplog.messages) == 3 and "in project" not in caplog.messages[2]


def test_what_has_been_counted_is_told_at_the_end(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    fail()
    fail()
    clock.now_s += 5
    outages.tell(is_last=True)

    assert caplog.messages[1].startswith("once more in 5 s: ")


def test_a_fault_is_told_with_its_traceback_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        try:
            raise KeyError("x")
        except KeyError as exc:
            outages.broke("forwarding failed", exc)

    told, traced = caplog.records
    assert "fault of llm-proxy" in told.getMessage() and traced.exc_info and traced.exc_info[0] is KeyError
