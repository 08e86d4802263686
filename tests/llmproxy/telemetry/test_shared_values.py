"""Numbers in files: added up over processes, kept when one dies, whatever their number."""

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.mmap_dict import MmapedDict

from llmproxy.telemetry import shared_values
from tests.exposition import samples, total

Count = Callable[[int, int], None]


@pytest.fixture
def count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Count:
    """Counts as a process with this id would, in `tmp_path`; `names` different things."""
    monkeypatch.setattr(shared_values, "_files", None)
    monkeypatch.setattr(shared_values, "_unshared", [])

    def run(pid: int, names: int = 1) -> None:
        monkeypatch.setattr(shared_values.os, "getpid", lambda: pid)
        shared_values.share_in(tmp_path)
        things = Counter("things_total", "Things.", ["thing"], registry=None)
        for number in range(names):
            things.labels(f"thing {number}").inc(2)
        things.labels("thing 0").inc()
        Gauge("open_things", "Now.", multiprocess_mode="livesum", registry=None).set(pid)
        sizes = Histogram("size_bytes", "Sizes.", buckets=(1, 10), registry=None)
        for size in (0.5, 5, 50):
            sizes.observe(size)

    return run


def exposed() -> str:
    return shared_values.exposition().decode()


def test_processes_are_added_up(count: Count) -> None:
    count(1)
    count(2)

    assert total(exposed(), "things_total", thing="thing 0") == 6
    assert total(exposed(), "open_things") == 3
    assert [sample.value for sample in samples(exposed()) if sample.name == "size_bytes_bucket"] == [2, 4, 6]
    assert total(exposed(), "size_bytes_sum") == 111


def test_numbers_made_before_a_fork_are_shared_after_it(count: Count, tmp_path: Path) -> None:
    running = Gauge("running", "Now.", multiprocess_mode="livesum", registry=None)
    running.set(1)
    made = Counter("made_total", "Made.", ["thing"], registry=None)
    early = made.labels("early")
    assert list(tmp_path.glob("*.db")) == []

    shared_values.share_in(tmp_path)
    early.inc(2)
    made.labels("late").inc(3)

    assert total(exposed(), "running") == 1
    assert total(exposed(), "made_total", thing="early") == 2
    assert total(exposed(), "made_total", thing="late") == 3


def test_numbers_go_on_counting_when_their_file_has_grown(count: Count) -> None:
    count(1, names=2000)

    assert total(exposed(), "things_total") == 4001
    assert total(exposed(), "things_total", thing="thing 0") == 3


def test_what_the_dead_have_counted_stays_in_one_file(count: Count, tmp_path: Path) -> None:
    for pid in range(1, 6):
        count(pid, names=pid)
        shared_values.absorb(tmp_path, pid)
    count(6)

    assert total(exposed(), "things_total", thing="thing 0") == 18
    assert total(exposed(), "things_total", thing="thing 4") == 2
    assert total(exposed(), "size_bytes_count") == 18
    assert total(exposed(), "open_things") == 6
    files = {path.name for path in tmp_path.glob("*.db")}
    assert files == {"counter_dead.db", "histogram_dead.db", "counter_6.db", "histogram_6.db", "gauge_livesum_6.db"}


def test_nobody_adds_up_while_a_file_is_being_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    could_add_up = []

    class Made(MmapedDict):
        def __init__(self, path: str) -> None:
            with (tmp_path / ".lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    could_add_up.append(False)
            super().__init__(path)

    monkeypatch.setattr(shared_values, "MmapedDict", Made)
    files = shared_values._Files(tmp_path)
    for name in ("first", "second"):
        files.place_of("counter", name)

    assert could_add_up == [False]


def test_a_process_that_counted_nothing_leaves_nothing(count: Count, tmp_path: Path) -> None:
    count(1)
    before = exposed()
    shared_values.absorb(tmp_path, 99)

    assert exposed() == before


def test_a_process_that_was_killed_while_it_made_its_file_leaves_nothing(count: Count, tmp_path: Path) -> None:
    count(1)
    (tmp_path / "counter_2.db").touch()

    shared_values.absorb(tmp_path, 2)

    assert total(exposed(), "things_total", thing="thing 0") == 3
    assert not (tmp_path / "counter_2.db").exists()


def test_files_that_the_library_lays_out_otherwise_are_noticed(count: Count) -> None:
    count(1)
    assert shared_values.lost() is None

    assert shared_values._files is not None
    positions = shared_values._files._open["counter"]._positions
    positions.update({key: position + 8 for key, position in positions.items()})

    assert shared_values.lost() == "lays its files out otherwise"
