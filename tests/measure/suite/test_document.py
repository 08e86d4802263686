"""What is written down: every figure in its place, the rest of the pages untouched, and what is missing told."""

import json
from pathlib import Path

import pytest

from measure.suite import document, peers
from measure.suite.measurements import WAIT_MS
from measure.suite.targets import TARGETS, Target

STREAMS = ("cpu_us", "lost", "added_p50_ms", "added_p99_ms", "direct_p99_ms", "upstream_cpu_us", "load_cpu_us")
FIGURES = [
    *(target.figure for target in TARGETS),
    *(f"streams_800_{name}" for name in STREAMS),
    "json_beside_bare_lowest", "json_beside_bare_highest", "embedded_json_us", "proxy_json_us", "two_workers_per_s",
    "alone_per_s", "idle_clients", "memory_idle_mb", "claim_us", "claim_growth", "memory_rest_mb",
    "memory_two_workers_mb", "memory_another_worker_mb", f"{WAIT_MS}a hostile shape",
]  # fmt: skip


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    for page in ("docs/benchmark.md", "README.md"):
        (tmp_path / page).write_text(f"before\n{document.BEGIN}\nold\n{document.END}\nafter\n")
    return tmp_path


def test_the_pages_keep_what_was_written_by_hand(checkout: Path) -> None:
    figures = dict.fromkeys(FIGURES, 1.0)
    document.write(figures, checkout, load=0.1)
    document.write(figures, checkout, load=0.1)

    for page in ("docs/benchmark.md", "README.md"):
        text = (checkout / page).read_text()
        assert text.startswith(f"before\n{document.BEGIN}\n| |")
        assert text.endswith(f"{document.END}\nafter\n")
        assert "old" not in text
    assert json.loads((checkout / "docs/benchmark.json").read_text())["figures"] == figures


def test_the_servers_stand_side_by_side_and_what_was_not_measured_is_left_out(checkout: Path) -> None:
    document.write(dict.fromkeys(FIGURES, 1.0) | {"proxy_json_us": 251.3}, checkout, load=0.1)

    rows = (checkout / "docs/benchmark.md").read_text().splitlines()
    assert "| **llm-proxy**, everything on | 251 | - | - | - | - | - | - / - | - |" in rows
    assert "| nginx, passing on | - | - | - | - | - | - | - / - | - |" in rows


def test_a_page_says_how_busy_the_machine_was(checkout: Path) -> None:
    document.write(dict.fromkeys(FIGURES, 1.0), checkout, load=7.25)

    assert "load before the first measurement 7.2;" in (checkout / "docs/benchmark.md").read_text()


@pytest.mark.parametrize(
    ("figures", "verdict"),
    [
        ({"x": 1.0}, "reach"),
        ({"x": 1.01}, "must"),
        ({"x": 1.2}, "must"),
        ({"x": 1.21}, "falls short"),
        ({}, "not measured"),
    ],
)
def test_a_figure_meets_the_mark_that_it_reaches(figures: dict[str, float], verdict: str) -> None:
    assert Target("an event", "x", 1.2, 1.0, "x").verdict(figures) == verdict


def test_peers_are_those_that_the_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "NGINX", None)
    monkeypatch.setattr(peers, "ENVOY", tmp_path / "envoy")
    assert peers.peers() == {}

    (tmp_path / "envoy").touch()
    assert peers.peers() == {"envoy": peers.envoy}
