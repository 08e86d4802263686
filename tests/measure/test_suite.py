"""The benchmark's parts: paced events carry their time and none is missed, and the document keeps its other parts."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from measure.suite import document, measurements
from measure.suite.json_load import json_round
from measure.suite.stage import Server, bare_flask, call, free_port, paced_upstream, started
from measure.suite.stream_load import stream_round
from measure.suite.targets import TARGETS, verdict


def test_paced_events_all_arrive_after_they_were_sent() -> None:
    with paced_upstream() as upstream:
        found = stream_round(upstream, streams=5, per_s=100, duration_s=0.3)

    assert (found.lost, len(found.delays_ms)) == (0, 150)
    assert 0 < found.percentile(0) <= found.percentile(0.99) < 10_000


def test_a_stream_is_as_long_as_was_asked() -> None:
    with paced_upstream() as upstream:
        status, body = call(upstream.port, "GET", "/v1/x?events=3&per_s=1000", "x")

    assert (status, body.count(b"data: "), body.count(b"sent_ns")) == (200, 3, 3)


def test_a_round_of_calls_counts_the_time_of_the_process_that_answers(tmp_path: Path) -> None:
    with bare_flask(tmp_path) as bare:
        found = json_round(bare, requests=300, concurrency=4)

    assert len(found.times_ms) == 300
    assert found.cpu_us > 0
    assert found.percentile(0.5) <= found.percentile(0.99)


def test_calls_a_second_are_told_beside_the_bare_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for server in ("json_upstream", "bare_flask", "proxy"):
        monkeypatch.setattr(measurements, server, lambda *_, **__: nullcontext(Server(9)))
    told = iter([50_000, 1, 1, 1, 100, 60, 90, 200, 130, 160, 100, 70, 110])
    monkeypatch.setattr(measurements, "requests_per_s", lambda *_, **__: next(told))
    found = measurements.throughput(tmp_path, rounds=3, duration_s=1)

    assert (found["upstream_alone_per_s"], found["bare_per_s"], found["workers_2_per_s"]) == (50_000, 100, 110)
    assert found["workers_2_beside_bare"] == 0.9


def test_an_event_is_told_beside_the_bare_view_where_both_were_measured() -> None:
    both = {"streams_400_cpu_us": 30.0, "bare_cpu_us": 150.0}

    assert measurements.event_beside_bare(both) == {"event_beside_bare": 0.2}
    assert measurements.event_beside_bare({"bare_cpu_us": 150.0}) == {}


def test_a_server_that_does_not_start_is_told() -> None:
    with pytest.raises(RuntimeError, match="did not start"), started(["false"], free_port()):
        pass


def test_the_document_keeps_what_was_written_by_hand(tmp_path: Path) -> None:
    page = tmp_path / "benchmark.md"
    page.write_text(f"before\n{document.BEGIN}\nold\n{document.END}\nafter\n")
    figures = dict.fromkeys(FIGURES, 1.0)
    document.write(figures, tmp_path)
    document.write(figures, tmp_path)

    text = page.read_text()
    assert text.startswith(f"before\n{document.BEGIN}\n| |")
    assert text.endswith(f"{document.END}\nafter\n")
    assert "old" not in text
    assert json.loads((tmp_path / "benchmark.json").read_text())["figures"] == figures


def test_a_figure_meets_the_mark_that_it_reaches() -> None:
    ratio = next(target for target in TARGETS if target.figure == "json_cpu_ratio")
    per_s = next(target for target in TARGETS if target.figure == "workers_2_per_s")

    assert [verdict(ratio, {"json_cpu_ratio": value}) for value in (1.5, 2.0, 2.1)] == [
        "reach",
        "must",
        "falls short",
    ]
    assert [verdict(per_s, {"workers_2_per_s": value}) for value in (6000, 4499)] == ["reach", "falls short"]


STREAMS = ("cpu_us", "lost", "added_p50_ms", "added_p99_ms", "direct_p99_ms", "upstream_cpu_us", "load_cpu_us")
FIGURES = [
    *(target.figure for target in TARGETS),
    *(f"streams_{count}_{name}" for count in (100, 400, 800) for name in STREAMS),
    "json_cpu_us", "bare_cpu_us", "json_cpu_ratio_lowest", "json_cpu_ratio_highest", "embedded_cpu_us", "bare_per_s",
    "workers_1_per_s", "upstream_alone_per_s", "idle_clients", "memory_idle_mb", "claim_us",
    "memory_two_workers_mb", "memory_another_worker_mb", "claim_growth_all_in_use", "dashboard_records",
    "slowest_page_ms",
]  # fmt: skip
