"""Two checkouts in turn: the arithmetic, the order, the end, and the servers for real."""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from measure.suite import against
from measure.suite.against import Difference, compare, difference
from measure.suite.lockstep import Lockstep
from measure.suite.server import ROOT, Server, one_kept_free
from measure.suite.stage import proxy
from measure.suite.turn import Turn, cost_us
from measure.suite.upstreams import json_upstream


def turns(*costs_us: float) -> list[Turn]:
    return [Turn(cost / 1e6 * 100, 100) for cost in costs_us]


def test_a_difference_is_the_mean_ratio_with_students_interval_over_the_starts() -> None:
    found = difference("a call", [(turns(102), turns(100)), (turns(204), turns(200)), (turns(104.04), turns(102))])

    assert (found.here_us, found.there_us) == (pytest.approx(104.04), pytest.approx(102))
    assert (found.low, found.percent, found.high) == (pytest.approx(2), pytest.approx(2), pytest.approx(2))


def test_an_interval_is_as_wide_as_the_starts_differ() -> None:
    # The ratios' logarithms are -0.01 and 0.01: of their mean the deviation is 0.01, and Student's factor is 12.71.
    found = difference("a call", [(turns(100), turns(100 * 1.0100502)), (turns(100 * 1.0100502), turns(100))])

    assert found.percent == pytest.approx(0, abs=1e-6)
    assert (found.low, found.high) == (pytest.approx(-11.94, abs=0.01), pytest.approx(13.55, abs=0.01))


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-1.0, 1.99, "2 % more is excluded"),
        (-1.0, 2.0, "cannot be told"),
        (2.0, 4.0, "cannot be told"),
        (2.01, 4.0, "more than 2 %"),
        (-9.0, -3.0, "2 % more is excluded"),
    ],
)
def test_two_percent_are_excluded_told_or_neither(low: float, high: float, verdict: str) -> None:
    assert Difference("a call", 1, 1, (low + high) / 2, low, high).verdict == verdict


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[list[Path]]:
    """The checkouts of each start, in the order in which they were started; this one takes 1 % more in each."""
    made: list[list[Path]] = []

    def one_start(checkouts, *_):
        made.append([checkout for checkout, _ in checkouts])
        noise = 0.2 if len(made) % 2 and "noisy" in str(checkouts) else 0
        yield "a call", [turns(101 + noise * 100 if checkout == ROOT else 100) for checkout in made[-1]]

    monkeypatch.setattr(against, "_one_start", one_start)
    monkeypatch.setattr(against, "json_upstream", lambda _: nullcontext(Server(9)))
    return made


def test_each_checkout_is_first_in_every_second_start(starts: list[list[Path]], tmp_path: Path) -> None:
    told = list(compare(Path("/other"), tmp_path, seconds=0, starts=(4, 9)))

    assert starts == [[ROOT, Path("/other")], [Path("/other"), ROOT]] * 2
    assert [found[0].percent for found in told] == [pytest.approx(1)] * 3


def test_starts_go_on_while_the_interval_is_wide(starts: list[list[Path]], tmp_path: Path) -> None:
    told = list(compare(Path("/noisy"), tmp_path, seconds=0, starts=(2, 5)))

    assert len(starts) == 5
    assert len(told) == 4


def test_calls_and_events_of_two_running_servers_are_counted(tmp_path: Path) -> None:
    with one_kept_free() as processor, json_upstream(tmp_path) as upstream, Lockstep() as lockstep:
        checkouts = [(ROOT, tmp_path / "here"), (ROOT, tmp_path / "there")]
        found = dict(against._one_start(checkouts, upstream, lockstep, 0.01, processor))

    assert list(found) == ["a JSON call", "an event, 100 streams of 50/s", "an event, 400 streams of 50/s"]
    assert {len(sides) for sides in found.values()} == {2}
    assert min(cost_us(side) for sides in found.values() for side in sides) > 0


def test_a_checkout_runs_its_own_code_by_its_own_python(tmp_path: Path) -> None:
    python = tmp_path / "checkout/.venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$PWD $UPSTREAM_URL $@" > started\n')
    python.chmod(0o755)

    with (
        pytest.raises(RuntimeError, match="did not start"),
        proxy(Server(9), tmp_path, checkout=tmp_path / "checkout"),
    ):
        pass
    told = (tmp_path / "checkout/started").read_text()
    assert told == f"{tmp_path / 'checkout'} http://127.0.0.1:9 -m gunicorn -c gunicorn.conf.py wsgi:app\n"


def test_make_bench_passes_the_other_checkout_on() -> None:
    command = ["make", "-n", "--no-print-directory", "-o", ".venv/.dev", "-o", ".venv/envoy", "bench"]
    against_other, alone = (
        subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for more in (["AGAINST=../other"], [])
    )

    assert against_other == ".venv/bin/python -m measure.suite --against ../other\n"
    assert alone == ".venv/bin/python -m measure.suite --write\n"


def test_what_is_no_checkout_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "measure.suite", "--against", str(tmp_path)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert told.returncode == 2
    assert "holds no wsgi.py" in told.stderr
