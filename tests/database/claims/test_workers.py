"""Which workers live, told by the kernel."""

import signal
import subprocess
import sys

import pytest

from database.claims.workers import Worker, bury, dead_among

_HOLD = """
import sys
from pathlib import Path
from database.claims.workers import Worker
worker = Worker(Path(sys.argv[1]))
print(worker.name, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other_process(tmp_path):
    """Another worker of the node: its process, and its name."""
    command = [sys.executable, "-c", _HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process, process.stdout.readline().strip()
        process.send_signal(signal.SIGCONT)
        process.kill()


def test_a_worker_lives_until_it_is_killed(tmp_path, other_process):
    process, name = other_process
    assert dead_among(tmp_path, [name, "0" * 16]) == ["0" * 16]

    process.send_signal(signal.SIGSTOP)
    assert dead_among(tmp_path, [name]) == []

    process.kill()
    process.wait()
    assert dead_among(tmp_path, [name]) == [name]


def test_this_process_lives_too(tmp_path):
    worker = Worker(tmp_path)

    assert dead_among(tmp_path, [worker.name]) == []
    worker.leave()
    assert dead_among(tmp_path, [worker.name]) == [worker.name]


def test_a_worker_whose_file_cannot_be_deleted_ends_all_the_same(tmp_path):
    worker = Worker(tmp_path)
    (tmp_path / "workers").rename(tmp_path / "moved")
    (tmp_path / "workers").touch()  # in which nothing can be deleted
    worker.leave()

    (tmp_path / "workers").unlink()
    (tmp_path / "moved").rename(tmp_path / "workers")
    assert dead_among(tmp_path, [worker.name]) == [worker.name]


def test_names_are_short_and_never_the_same(tmp_path):
    names = {Worker(tmp_path).name for _ in range(20)}

    assert len(names) == 20
    assert {len(name) for name in names} == {16}


def test_the_files_of_the_dead_are_deleted_and_those_of_the_living_are_not(tmp_path, other_process):
    process, name = other_process
    mine = Worker(tmp_path)
    assert bury(tmp_path) == 0

    process.kill()
    process.wait()

    assert bury(tmp_path) == 1
    assert [path.name for path in (tmp_path / "workers").iterdir()] == [mine.name]
    assert dead_among(tmp_path, [name, mine.name]) == [name]


def test_where_there_was_no_worker_nobody_is_buried(tmp_path):
    assert bury(tmp_path) == 0
