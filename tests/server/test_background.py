"""What workers do besides answering: usage appears, records are shipped, and another worker takes over."""

import logging
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import gevent
import pytest

from accounting import ledger
from llmproxy.api_log.reader import LogReader, ReaderBusy
from llmproxy.api_log.retention import Dropped
from server import background
from tests.receiver import Receiver, receiver  # noqa: F401
from tests.servers import DEPLOYED, Server, on_both_servers, wait_for

pytestmark = on_both_servers


@pytest.fixture
def server(server_kind, tmp_path, receiver: Receiver):  # noqa: F811
    settings = {"WEB_CONCURRENCY": "2", "LOGGING_URL": receiver.url, "LOGGING_TOKEN": "planted-logging-token"}
    with Server(server_kind, tmp_path / "data", **settings) as running:
        yield running
        assert "Traceback" not in running.output()
        assert "planted" not in running.output() + running.metrics()


def wait_for_usage(server: Server, requests: int) -> dict:
    def added_up():
        _, usage = server.manage("GET", "/usage")
        return usage["total"] if usage["total"]["requests"] >= requests else None

    return wait_for(added_up, otherwise=server.output)


def test_calls_become_usage_and_are_shipped(server, receiver):  # noqa: F811
    server.leave_records(30)

    usage = wait_for_usage(server, 30)
    shipped = wait_for(lambda: receiver.records if len(receiver.records) >= 30 else None)

    assert (usage["requests"], usage["errors"]) == (30, 30)
    ids = {record["request_id"] for record in server.records()}
    assert {record["request_id"] for record in shipped} == ids


def test_when_a_worker_is_killed_the_others_do_its_work(tmp_path, receiver):  # noqa: F811
    settings = {"WEB_CONCURRENCY": "2", "LOGGING_URL": receiver.url}
    with Server(DEPLOYED, tmp_path / "data", **settings) as server:
        for calls in (5, 10, 15):
            server.leave_records(5)
            # A record is written after the answer has left.
            server.wait_for_records(calls)
            oldest = server.worker_pids()[0]
            os.kill(oldest, signal.SIGKILL)
            wait_for(lambda gone=oldest: gone not in server.worker_pids() and len(server.worker_pids()) == 2)
        server.leave_records(5)

        assert wait_for_usage(server, 20)["requests"] == 20
        wait_for(lambda: len({record["request_id"] for record in receiver.records}) == 20)


def test_metrics_tell_how_far_the_readers_are(server):
    server.leave_records(3)
    wait_for_usage(server, 3)

    size = (server.data_dir / "api_logs.jsonl").stat().st_size
    told = (
        'llmproxy_log_lag_bytes{reader="rollup"} 0.0',
        'llmproxy_log_lag_seconds{reader="rollup"} 0.0',
        'llmproxy_log_lag_bytes{reader="shipper"}',
        f"llmproxy_log_disk_bytes {float(size)}",
        "llmproxy_log_dead_letters 0.0",
        "llmproxy_log_dropped_records 0.0",
    )

    def are_told() -> bool:
        text = server.metrics()
        return all(line in text for line in told)

    # A text is a second old at most, the files are looked at now and then, and the position follows the sums.
    wait_for(are_told, otherwise=server.metrics)


# One piece of it at a time


class Rollup:
    """Has so many batches to add, or is busy."""

    def __init__(self, batches: int = 0, *, is_busy: bool = False) -> None:
        self.batches = batches
        self.is_busy = is_busy
        self.is_closed = False
        self.asked_for: list[int] = []
        self.sums = SimpleNamespace(last_save_s=0.0)

    def step(self, *, max_records: int) -> int:
        if self.is_busy:
            raise ReaderBusy
        self.asked_for.append(max_records)
        self.batches -= 1
        return max(0, self.batches + 1)

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("rollup", [Rollup(3), Rollup(is_busy=True)], ids=["work", "busy"])
def test_a_tick_lets_go_of_the_lock_when_it_ends(rollup):
    background.catch_up(rollup)

    assert rollup.is_closed
    assert rollup.batches <= 0


def test_others_get_their_turn_between_two_batches():
    turns = []
    other = gevent.spawn(lambda: turns.append(gevent.sleep(0)))

    background.catch_up(Rollup(3))

    assert turns == [None]
    other.join()


@pytest.mark.parametrize(
    ("lock_s", "sizes"),
    [(0.001, [50, 100, 200, 400, 500, 500]), (0.005, [50] * 6), (0.1, [50] * 6)],
    ids=["quick", "as wanted", "slow"],
)
def test_batches_grow_while_the_write_lock_is_held_shortly(lock_s, sizes):
    rollup = Rollup(5)
    rollup.sums.last_save_s = lock_s

    background.catch_up(rollup)

    assert rollup.asked_for == sizes


def test_a_batch_shrinks_when_the_write_lock_was_held_long():
    assert background._next_size(400, 0.02) == 200


def test_work_that_fails_is_tried_again_and_told_once(caplog):
    caplog.set_level(logging.INFO, logger="server.background")
    outcomes = [None, OSError("no"), None, *[OSError("the disk is on fire")] * 5, None, None]
    done = gevent.event.Event()

    def work():
        if not outcomes:
            done.set()
        elif outcome := outcomes.pop(0):
            raise outcome

    loop = gevent.spawn(background._forever, "working", work, 0.0, gevent.event.Event())
    assert done.wait(timeout=60)
    loop.kill()

    told = [record.getMessage() for record in caplog.records]
    assert told == ["working fails, and is tried again: the disk is on fire", "working works again"]


def test_what_fails_in_a_thread_is_raised_where_it_was_asked_for_and_printed_nowhere(tmp_path, capfd):
    with pytest.raises(FileNotFoundError):
        background._Disk().wait_for(os.unlink, tmp_path / "nothing")

    assert capfd.readouterr() == ("", "")


def test_what_the_cap_deletes_unread_is_kept_for_the_operator(tmp_path: Path):
    class Writer:
        pending = lost = 0
        dropped = Dropped()

        def flush_pending(self):
            pass

        def enforce_cap(self):
            pass

    class Parts:
        log = Writer()
        settings = type("Settings", (), {"data_dir": tmp_path})()

    keep = background._LogKeeper(Parts())
    for total in (0, 5, 5, 8):
        Parts.log.dropped = Dropped(bytes=total * 100, records=total)
        keep()

    assert ledger.dropped_so_far(Parts.settings) == Dropped(bytes=800, records=8)
    assert len((tmp_path / "dropped.jsonl").read_bytes().splitlines()) == 2


def test_a_recount_can_have_the_lock_between_two_ticks(server):
    server.leave_records(3)
    wait_for_usage(server, 3)

    reader = LogReader(server.data_dir / "api_logs.jsonl", "rollup")

    def acquires():
        try:
            reader.acquire()
        except ReaderBusy:
            return False
        return True

    assert wait_for(acquires)
    reader.close()
