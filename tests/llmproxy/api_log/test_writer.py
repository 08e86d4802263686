import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from llmproxy.api_log import retention
from llmproxy.api_log import writer as writer_module
from llmproxy.api_log.file_lock import FileLock
from llmproxy.api_log.read_record import parse_line
from llmproxy.api_log.segment import list_segments
from llmproxy.api_log.writer import LogWriter

ROOM = {"max_file_bytes": 64 << 20, "max_total_bytes": 2 << 30}


class Clock:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def open_writer(log_path, clock):
    writers = []

    def make(**options):
        writers.append(LogWriter(log_path, **(ROOM | {"monotonic": clock} | options)))
        return writers[-1]

    yield make
    for writer in writers:
        writer.close()


@pytest.fixture
def write(call_record):
    """Writes records; their ids."""

    def put(writer, count=1, **overrides):
        records = [call_record(**overrides) for _ in range(count)]
        for record in records:
            writer.write(record)
        return [record.request_id for record in records]

    return put


@pytest.fixture
def broken_disk(monkeypatch):
    """A disk whose writes fail, or are cut short, as the test says; it counts what was tried."""

    class Disk:
        error = None
        room = None
        tries = 0

        def write(self, fd, data):
            self.tries += 1
            if self.error:
                raise OSError(self.error, os.strerror(self.error))
            if self.room is not None:
                taken = min(self.room, len(data))
                self.room -= taken
                if not taken:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return real(fd, data[:taken])
            return real(fd, data)

    real = os.write
    disk = Disk()
    monkeypatch.setattr(writer_module.os, "write", disk.write)
    return disk


def ids_in(path):
    return [record.request_id for line in path.read_bytes().split(b"\n") if (record := parse_line(line))]


def all_ids(log_path):
    return [identity for segment in list_segments(log_path) for identity in ids_in(segment.path)]


def test_each_record_is_one_line_at_once(open_writer, write, log_path):
    writer = open_writer()

    for count in range(1, 4):
        write(writer)
        assert log_path.read_bytes().count(b"\n") == count
    assert (writer.pending, writer.lost) == (0, 0)


def test_a_record_is_one_write(open_writer, write, broken_disk):
    writer = open_writer()
    write(writer, 10)

    assert broken_disk.tries == 10


def test_the_file_is_not_readable_for_everyone(open_writer, write, log_path):
    write(open_writer())

    assert log_path.stat().st_mode & 0o007 == 0


def test_a_record_that_cannot_be_made_into_a_line_is_counted(open_writer, call_record, caplog):
    writer = open_writer()

    assert writer.write(call_record(timestamp=float("inf"))) is False
    assert writer.lost == 1 and "could not be written and is lost" in caplog.text


class TestOtherHands:
    @pytest.mark.parametrize("rotated", [True, False])
    def test_a_renamed_or_deleted_file_is_left_within_the_recheck(self, open_writer, write, log_path, clock, rotated):
        writer = open_writer()
        write(writer, 1)
        log_path.rename(log_path.with_name("api_logs.jsonl.1")) if rotated else log_path.unlink()
        clock.advance(writer_module.RECHECK_S)
        ids = write(writer, 2)

        assert ids_in(log_path) == ids

    def test_a_truncated_file_is_appended_to_at_its_new_end(self, open_writer, write, log_path):
        writer = open_writer()
        write(writer, 5)
        os.truncate(log_path, 0)
        ids = write(writer, 1)

        assert ids_in(log_path) == ids and not log_path.read_bytes().startswith(b"\x00")

    def test_half_a_line_that_a_dead_process_left_does_not_touch_the_next_record(self, open_writer, write, log_path):
        log_path.write_bytes(b'{"timestamp":"2026')
        ids = write(open_writer(), 2)

        assert ids_in(log_path) == ids

    def test_two_writers_share_the_descriptor_number_of_neither(self, open_writer, write, log_path, clock):
        writer = open_writer()
        write(writer)
        before = writer._fd
        log_path.rename(log_path.with_name("api_logs.jsonl.1"))
        clock.advance(1)
        write(writer)

        assert writer._fd == before


class TestFullDisk:
    @pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EFBIG])
    def test_records_wait_in_order_and_are_written_when_there_is_room(
        self, open_writer, write, log_path, broken_disk, error
    ):
        writer = open_writer()
        ids = write(writer, 2)
        broken_disk.error = error
        ids += write(writer, 3)
        waiting = writer.pending
        broken_disk.error = None
        ids += write(writer, 1)

        assert waiting == 3
        assert ids_in(log_path) == ids and (writer.pending, writer._pending_bytes, writer.lost) == (0, 0, 0)

    def test_write_tells_whether_the_record_is_in_the_file(self, open_writer, call_record, broken_disk):
        writer = open_writer()
        answers = [writer.write(call_record())]
        broken_disk.error = errno.ENOSPC
        answers += [writer.write(call_record()), writer.write(call_record())]
        broken_disk.error = None
        answers += [writer.write(call_record())]

        assert answers == [True, False, False, True]

    def test_what_the_memory_cannot_hold_is_lost_and_said_so(self, open_writer, write, log_path, broken_disk, caplog):
        writer = open_writer(pending_bytes=2000)
        broken_disk.error = errno.ENOSPC
        ids = write(writer, 10)
        kept = writer.pending
        bounded = writer._pending_bytes
        broken_disk.error = None
        writer.flush_pending()

        assert 0 < kept < 10 and writer.lost == 10 - kept and bounded <= 2000
        assert ids_in(log_path) == ids[:kept]
        assert "cannot be written" in caplog.text

    def test_a_full_disk_is_not_reported_at_every_request(self, open_writer, write, broken_disk, clock, caplog):
        writer = open_writer()
        broken_disk.error = errno.ENOSPC
        write(writer, 50)
        clock.advance(writer_module.WARN_EVERY_S)
        write(writer, 50)

        assert len(caplog.records) == 2

    def test_a_line_cut_at_any_byte_is_written_whole_and_once(self, log_path, call_record, broken_disk, clock):
        length = len(call_record().to_line())
        for room in range(1, length + 1):
            log_path.unlink(missing_ok=True)
            broken_disk.room = None
            writer = LogWriter(log_path, monotonic=clock, **ROOM)
            records = [call_record() for _ in range(3)]
            writer.write(records[0])
            broken_disk.room = room
            writer.write(records[1])
            broken_disk.room = None
            writer.write(records[2])
            writer.close()

            assert ids_in(log_path) == [record.request_id for record in records], room

    def test_a_long_queue_is_written_in_slices(self, open_writer, write, log_path, broken_disk):
        writer = open_writer()
        broken_disk.error = errno.ENOSPC
        ids = write(writer, writer_module.FLUSH_LINES * 2 + 5)
        broken_disk.error = None
        left = [writer.flush_pending() for _ in range(3)]

        assert left == [writer_module.FLUSH_LINES + 5, 5, 0]
        assert ids_in(log_path) == ids

    def test_what_still_waits_at_the_end_is_written_or_counted(
        self, open_writer, write, log_path, broken_disk, caplog
    ):
        rescued, lost = open_writer(), open_writer()
        broken_disk.error = errno.ENOSPC
        ids = write(rescued, 700)
        write(lost, 3)
        lost.close()
        broken_disk.error = None
        rescued.close()

        assert ids_in(log_path) == ids and rescued.lost == 0
        assert lost.lost == 3 and "before the end" in caplog.text

    def test_a_missing_directory_may_come_later(self, tmp_path, write, clock):
        path = tmp_path / "later" / "api_logs.jsonl"
        writer = LogWriter(path, monotonic=clock, **ROOM)
        ids = write(writer, 2)
        path.parent.mkdir()
        clock.advance(1)
        writer.flush_pending()
        ids += write(writer, 1)
        writer.close()

        assert ids_in(path) == ids and writer.lost == 0

    def test_a_directory_that_goes_away_takes_no_record_with_it(self, tmp_path, write, clock):
        path = tmp_path / "data" / "api_logs.jsonl"
        path.parent.mkdir()
        writer = LogWriter(path, monotonic=clock, **ROOM)
        write(writer, 1)
        shutil.rmtree(path.parent)
        clock.advance(1)
        ids = write(writer, 2)
        path.parent.mkdir()
        clock.advance(1)
        ids += write(writer, 1)
        writer.close()

        assert ids_in(path) == ids

    def test_a_real_disk_that_is_full_and_emptied_again_loses_nothing(self, small_disk, write):
        path = small_disk / "api_logs.jsonl"
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"x" * (3500 << 10))
        writer = LogWriter(path, max_file_bytes=1 << 30, max_total_bytes=2 << 30)
        ids = []
        while writer.pending < 50:
            ids += write(writer, 10)
        strict = writer.can_write()
        ballast.unlink()
        ids += write(writer, 10)
        while writer.flush_pending():
            pass
        writer.close()

        assert strict is False and writer.lost == 0
        assert ids_in(path) == ids


def test_a_request_that_outlives_the_writer_is_recorded(open_writer, write, log_path):
    writer = open_writer()
    ids = write(writer)
    writer.close()
    ids += write(writer, 2)

    assert ids_in(log_path) == ids


class TestStrict:
    def test_a_writer_that_can_write_says_so(self, open_writer):
        assert open_writer().can_write() is True

    def test_a_writer_with_something_waiting_cannot(self, open_writer, write, broken_disk):
        writer = open_writer()
        broken_disk.error = errno.ENOSPC
        write(writer)

        assert writer.can_write() is False
        broken_disk.error = None
        assert writer.can_write() is True

    def test_a_missing_directory_cannot(self, tmp_path):
        assert LogWriter(tmp_path / "none" / "api_logs.jsonl", **ROOM).can_write() is False

    def test_a_disk_about_to_be_full_cannot(self, small_disk, write):
        writer = LogWriter(small_disk / "api_logs.jsonl", **ROOM)
        before = writer.can_write()
        (small_disk / "ballast").write_bytes(b"x" * (3500 << 10))

        assert (before, writer.can_write()) == (True, False)
        writer.close()


class TestRotation:
    def test_a_file_over_its_size_becomes_a_segment(self, open_writer, write, log_path, clock):
        writer = open_writer(max_file_bytes=2000)
        ids = []
        for _ in range(10):
            ids += write(writer, 5)
            clock.advance(1)

        segments = list_segments(log_path)
        assert len(segments) > 3 and all_ids(log_path) == ids
        assert [item.path.name for item in segments[:-1]] == sorted(item.path.name for item in segments[:-1])

    def test_a_clock_that_goes_back_does_not_mix_the_order(self, open_writer, write, log_path, clock):
        moments = iter(datetime(2026, 11, 23, tzinfo=UTC) - timedelta(hours=hour) for hour in range(100))
        writer = open_writer(max_file_bytes=1000, now=lambda: next(moments))
        ids = []
        for _ in range(8):
            ids += write(writer, 3)
            clock.advance(1)

        assert all_ids(log_path) == ids

    def test_a_rotation_that_fails_loses_no_record(self, open_writer, write, log_path, clock, caplog, monkeypatch):
        def fails(*args):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(writer_module, "rotate", fails)
        writer = open_writer(max_file_bytes=1000)
        ids = write(writer, 5)
        clock.advance(1)
        ids += write(writer, 5)
        log_path.rename(log_path.with_name("api_logs.jsonl.1"))
        clock.advance(1)
        ids += write(writer, 1)

        assert all_ids(log_path) == ids and "cannot be rotated" in caplog.text

    def test_strange_files_among_the_positions_do_not_stop_the_cap(self, open_writer, write, log_path, clock):
        (log_path.parent / "positions").mkdir()
        for name in ("My Notes.json", "x.tmp", "shipper.lock"):
            (log_path.parent / "positions" / name).write_text("?")
        writer = open_writer(max_file_bytes=2000, max_total_bytes=5000)
        for _ in range(20):
            write(writer, 2)
            clock.advance(1)
            writer.enforce_cap()

        assert sum(item.size for item in list_segments(log_path)) < 5000 + 2 * 2000

    def test_segments_that_everyone_has_passed_go_first_and_silently(
        self, open_writer, open_reader, read_on, write, log_path, clock, caplog
    ):
        writer = open_writer(max_file_bytes=2000, max_total_bytes=10_000)
        shipper = open_reader()
        for _ in range(40):
            write(writer, 2)
            read_on(shipper)
            clock.advance(1)
            writer.enforce_cap()

        assert sum(item.size for item in list_segments(log_path)) < 10_000 + 2 * 2000
        assert writer.dropped.bytes == 0 and caplog.records == []

    def test_without_any_reader_old_segments_simply_go(self, open_writer, write, log_path, clock, caplog):
        writer = open_writer(max_file_bytes=2000, max_total_bytes=10_000)
        for _ in range(40):
            write(writer, 2)
            clock.advance(1)
            writer.enforce_cap()

        assert sum(item.size for item in list_segments(log_path)) < 10_000 + 2 * 2000
        assert writer.dropped.records == 0 and caplog.records == []

    def test_what_a_reader_still_owes_goes_last_and_is_counted(
        self, open_writer, open_reader, read_on, write, log_path, clock, caplog
    ):
        open_reader("lagging").acquire()
        swift = open_reader("swift")
        writer = open_writer(max_file_bytes=2000, max_total_bytes=10_000)
        ids = []
        for _ in range(40):
            ids += write(writer, 2)
            read_on(swift)
            clock.advance(1)
            writer.enforce_cap()
        kept = all_ids(log_path)

        assert kept == ids[-len(kept) :]
        assert writer.dropped.records == len(ids) - len(kept)
        assert "lagging had not read" in caplog.text and "swift" not in caplog.text

    def test_what_holds_refusals_alone_goes_before_what_holds_calls(
        self, open_writer, open_reader, read_on, write, call_record, log_path, clock
    ):
        refused = {"outcome": "refused", "upstream_status": None, "metadata": None, "status_code": 401}
        writer = open_writer(max_file_bytes=2000, max_total_bytes=10_000)
        open_reader("lagging").acquire()
        calls = write(writer, 8)
        for _ in range(40):
            writer.write(call_record(**refused))
            clock.advance(1)
            writer.enforce_cap()
        calls += write(writer, 1)

        assert calls == [identity for identity in all_ids(log_path) if identity in calls]
        assert sum(item.size for item in list_segments(log_path)) < 10_000 + 2 * 2000
        assert writer.dropped.records > 0

    @pytest.mark.parametrize("call", [{}, {"outcome": "refused", "is_cut": True}], ids=["whole", "cut under way"])
    def test_one_call_among_many_refusals_is_enough_to_be_kept_longer(
        self, open_writer, call_record, log_path, clock, monkeypatch, call
    ):
        monkeypatch.setattr(retention, "_PIECE_BYTES", 100)
        refused = {"outcome": "refused", "upstream_status": None}
        writer = open_writer(max_file_bytes=3000, max_total_bytes=10_000)
        kept = call_record(**call)
        for number in range(40):
            writer.write(kept if number == 3 else call_record(**refused))
            clock.advance(1)
            writer.enforce_cap()

        assert kept.request_id in all_ids(log_path)

    def test_losses_are_told_by_the_calls_that_lines_stand_for(
        self, open_writer, open_reader, call_record, clock, log_path
    ):
        open_reader("lagging").acquire()
        writer = open_writer(max_file_bytes=2000, max_total_bytes=4000)
        for _ in range(20):
            writer.write(call_record(outcome="refused", count=100))
            clock.advance(1)
            writer.enforce_cap()

        assert writer.dropped.records == 100 * (20 - len(all_ids(log_path)))

    def test_two_processes_never_count_the_same_loss(self, open_writer, write, log_path, clock):
        writer = open_writer(max_file_bytes=2000, max_total_bytes=4000)
        with_lock = FileLock(log_path.with_name("api_logs.cap.lock"))
        assert with_lock.acquire()
        for _ in range(20):
            write(writer, 2)
            clock.advance(1)
            writer.enforce_cap()
        before = sum(item.size for item in list_segments(log_path))
        with_lock.release()
        writer.enforce_cap()

        assert before > 10_000 and sum(item.size for item in list_segments(log_path)) < 4000 + 2 * 2000


def test_threads_share_a_writer_through_rotations(log_path, call_record, open_writer):
    writer = open_writer(max_file_bytes=20_000, monotonic=time.monotonic)
    lists = [[call_record() for _ in range(300)] for _ in range(4)]
    threads = [threading.Thread(target=lambda mine=mine: [writer.write(r) for r in mine]) for mine in lists]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(all_ids(log_path)) == sorted(record.request_id for mine in lists for record in mine)


WORKER = """
import itertools, os, sys, time, uuid
from pathlib import Path
from llmproxy.api_log import writer as module
from llmproxy.api_log.record import CallRecord
from llmproxy.api_log.segment import list_segments
path, name, end = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
number = 0
# The file is looked at every 20 records, however fast they are written.
clock = lambda: number * module.RECHECK_S / 20
writer = module.LogWriter(path, max_file_bytes=15_000, max_total_bytes=2 << 30, monotonic=clock)
for number in itertools.count():
    # While one that rotates is not let run, the others write on to a file that nobody else may rotate.
    if number >= 400 and len(list_segments(path)) > 3:
        break
    record = CallRecord(time.time(), f"{name}-{number:08d}-" + str(uuid.uuid4()), None, None,
                        "/v1/" + "x" * (number % 7000), "GET", 200, 1.0, None, "complete", False, None, 200, None,
                        0, 0, "absent", None)
    assert writer.write(record) is True
    if end == "die" and number == 200:
        os.kill(os.getpid(), 9)
writer.close()
print(number)
"""


def run_worker(log_path, name, end="live"):
    return subprocess.Popen([sys.executable, "-c", WORKER, str(log_path), name, end], stdout=subprocess.PIPE)


def test_processes_that_write_rotate_and_die_together_lose_and_mix_nothing(log_path):
    workers = [run_worker(log_path, f"w{number}", "die" if number == 3 else "live") for number in range(4)]
    written = [int(worker.communicate()[0] or 201) for worker in workers]

    lines = [line for item in list_segments(log_path) for line in item.path.read_bytes().split(b"\n") if line]
    ids = {json.loads(line)["request_id"].rsplit("-", 5)[0] for line in lines}
    assert ids == {f"w{worker}-{number:08d}" for worker in range(4) for number in range(written[worker])}
    assert len(lines) == len(ids) and [worker.returncode for worker in workers] == [0, 0, 0, -9]
    assert len(list_segments(log_path)) > 3
