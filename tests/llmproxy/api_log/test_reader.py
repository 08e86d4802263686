import fcntl
import os
import shutil
from datetime import UTC, datetime

import pytest

from llmproxy.api_log import lag as lag_module
from llmproxy.api_log.position import FilePositions, Position, registered_positions
from llmproxy.api_log.reader import USUAL_LINE_BYTES, LogReader, ReaderBusy
from llmproxy.api_log.record import MAX_LINE_BYTES
from tests.llmproxy.api_log.stores import MemoryPositions


def test_records_come_in_the_order_of_the_file(append, open_reader, read_on):
    ids = append(25)

    assert read_on(open_reader(), max_records=10) == ids


def test_a_batch_comes_again_until_it_is_committed(append, open_reader):
    ids = append(3)
    reader = open_reader()

    first, again = reader.read_batch(max_records=2), reader.read_batch(max_records=2)
    reader.commit(again)
    rest = reader.read_batch()

    assert first.position == again.position and [record.request_id for record in first.records] == ids[:2]
    assert [record.request_id for record in rest.records] == ids[2:]


def test_a_new_reader_goes_on_where_the_last_one_committed(append, open_reader, read_on):
    ids = append(5)
    first = open_reader()
    first.commit(first.read_batch(max_records=3))
    first.read_batch()
    first.close()

    assert read_on(open_reader()) == ids[3:]


def test_batches_are_bounded_by_bytes_but_hold_at_least_one_line(append, open_reader, read_on):
    ids = append(4)
    reader = open_reader()

    assert len(reader.read_batch(max_bytes=10).records) == 1
    assert read_on(reader, max_bytes=1200) == ids


def test_for_a_few_records_little_is_read(append, open_reader, monkeypatch):
    append(200)
    asked: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: asked.append(size) or pread(fd, size, at))

    batch = open_reader().read_batch(max_records=3)

    assert len(batch.records) == 3
    assert max(asked) < 10 * USUAL_LINE_BYTES


def test_nothing_at_all_is_an_empty_batch(open_reader, log_path):
    assert open_reader().read_batch().records == []
    log_path.touch()
    assert open_reader("other").read_batch().records == []


def test_a_half_written_line_waits_for_its_newline(append, open_reader, read_on, log_path, call_record, damage):
    reader = open_reader()
    ids = append(1)
    record = call_record()
    line = record.to_line()
    seen = []

    for index in range(len(line)):
        with log_path.open("ab") as file:
            file.write(line[index : index + 1])
        seen += read_on(reader)

    assert seen == [*ids, record.request_id] and damage["torn"] == 0


def test_a_half_line_before_a_newline_is_counted_and_stepped_over(append, open_reader, read_on, log_path, damage):
    ids = append(1)
    with log_path.open("ab") as file:
        file.write(b'{"timestamp":"2026-11-\n')
    ids += append(1)
    reader = open_reader()

    assert read_on(reader) == ids and damage["torn"] == 1


def test_a_line_longer_than_any_record_is_stepped_over_in_bounded_pieces(
    append, open_reader, read_on, log_path, damage
):
    ids = append(1)
    with log_path.open("ab") as file:
        file.write(b"x" * (3 * MAX_LINE_BYTES) + b"\n")
    ids += append(2)
    reader = open_reader()

    assert read_on(reader, max_bytes=1000) == ids and damage["torn"] >= 1


class TestRotation:
    @pytest.mark.parametrize(
        "name", ["api_logs.jsonl.1", "api_logs-20261123.jsonl", "api_logs.20261123T101500000000Z.jsonl"]
    )
    def test_a_renamed_file_is_read_to_its_end_first(self, append, open_reader, read_on, log_path, name):
        reader = open_reader()
        ids = append(3)
        reader.commit(reader.read_batch(max_records=1))
        log_path.rename(log_path.with_name(name))
        ids += append(2)

        assert read_on(reader) == ids[1:]

    def test_a_restarted_reader_follows_too(self, append, open_reader, read_on, log_path):
        ids = append(3)
        first = open_reader()
        first.commit(first.read_batch(max_records=1))
        first.close()
        for number in (2, 1):
            log_path.rename(log_path.with_name(f"api_logs.jsonl.{number}"))
            ids += append(2)

        assert sorted(read_on(open_reader())) == sorted(ids[1:])

    def test_copytruncate_loses_and_repeats_nothing(self, append, open_reader, read_on, log_path, damage):
        reader = open_reader()
        ids = append(4)
        reader.commit(reader.read_batch(max_records=1))
        shutil.copy(log_path, log_path.with_name("api_logs.jsonl.1"))
        os.truncate(log_path, 0)
        ids += append(3)

        assert read_on(reader) == ids[1:]
        assert not damage

    def test_a_segment_that_a_writer_still_has_open_is_not_left(
        self, append, open_reader, read_on, log_path, call_record
    ):
        reader = open_reader()
        ids = append(1)
        late = call_record()
        with log_path.open("ab") as slow_writer:
            fcntl.flock(slow_writer, fcntl.LOCK_SH)
            log_path.rename(log_path.with_name("api_logs.jsonl.1"))
            newer = append(1)
            before = read_on(reader)
            slow_writer.write(late.to_line())

        assert before == ids and read_on(reader) == [late.request_id, *newer]

    def test_a_segment_that_an_idle_process_keeps_open_is_left_in_the_end(
        self, append, open_reader, read_on, log_path
    ):
        reader = open_reader(settle_s=60, wall_clock=lambda: os.stat(rotated).st_ctime + 60)
        rotated = log_path.with_name("api_logs.jsonl.1")
        ids = append(1)
        with log_path.open("ab") as idle:
            fcntl.flock(idle, fcntl.LOCK_SH)
            log_path.rename(rotated)
            ids += append(1)

            assert read_on(reader) == ids

    def test_a_last_line_without_newline_in_a_finished_segment_is_read_or_counted(
        self, append, open_reader, read_on, log_path, damage
    ):
        ids = append(2)
        os.truncate(log_path, log_path.stat().st_size - 1)
        log_path.rename(log_path.with_name("api_logs.jsonl.2"))
        ids += append(2)
        os.truncate(log_path, log_path.stat().st_size - 2)
        log_path.rename(log_path.with_name("api_logs.jsonl.1"))
        newest = append(1)
        reader = open_reader()

        assert read_on(reader) == ids[:3] + newest and damage["torn"] == 1

    def test_compressed_segments_and_strangers_are_not_read(self, append, open_reader, read_on, log_path):
        ids = append(1)
        for name in ("api_logs.jsonl.1.gz", "dead_letters.jsonl", "api_logs.lock", "old_api_logs.jsonl"):
            shutil.copy(log_path, log_path.with_name(name))
        log_path.with_name("api_logs.jsonl.d").mkdir()

        assert read_on(open_reader()) == ids


class TestHands:
    def test_a_file_cut_to_nothing_is_read_from_its_new_start(self, append, open_reader, read_on, log_path):
        reader = open_reader()
        append(5)
        read_on(reader)
        os.truncate(log_path, 0)
        ids = append(2)

        assert read_on(reader) == ids

    def test_a_file_cut_in_the_middle_is_read_again(self, append, open_reader, read_on, log_path, damage):
        reader = open_reader()
        ids = append(5)
        size = log_path.stat().st_size
        read_on(reader)
        os.truncate(log_path, size * 2 // 5)

        assert read_on(reader) == ids[:2] and damage["changed"] == 1
        assert read_on(reader) == []

    def test_a_file_edited_in_place_is_read_again(self, append, open_reader, read_on, log_path):
        reader = open_reader()
        ids = append(3)
        read_on(reader)
        lines = log_path.read_bytes().splitlines(keepends=True)
        log_path.write_bytes(lines[0] + lines[2])
        ids = [ids[0], ids[2], *append(4)]

        assert read_on(reader) == ids

    def test_a_replaced_file_is_read_from_its_start(self, append, open_reader, read_on, log_path):
        reader = open_reader()
        append(5)
        read_on(reader)
        log_path.unlink()
        ids = append(1)

        assert read_on(reader) == ids

    def test_a_segment_that_vanished_is_counted_and_the_rest_is_read(
        self, append, open_reader, read_on, log_path, caplog, damage
    ):
        append(5)
        first = open_reader()
        first.commit(first.read_batch(max_records=1))
        first.close()
        log_path.unlink()
        ids = append(2)
        reader = open_reader()

        assert read_on(reader) == ids
        assert damage["missing"] == 1 and "unread records may be lost" in caplog.text

    def test_a_directory_that_is_away_for_a_moment_costs_nothing(
        self, append, open_reader, read_on, log_path, damage
    ):
        ids = append(5)
        first = open_reader()
        first.commit(first.read_batch(max_records=2))
        first.close()
        log_path.rename(log_path.with_name("away"))
        reader = open_reader()
        nothing = read_on(reader)
        log_path.with_name("away").rename(log_path)

        assert nothing == [] and read_on(reader) == ids[2:] and damage["missing"] == 0


class TestPositions:
    @pytest.mark.parametrize(
        "content",
        [b"", b"\x00" * 100, b"[]", b"{}", b'{"version":2}',
         b'{"version":1,"segment":3,"offset":0,"tail":"","done":[]}',
         b'{"version":1,"segment":null,"offset":-1,"tail":"","done":[]}',
         b'{"version":1,"segment":null,"offset":0,"tail":"","done":[1]}'],
    )  # fmt: skip
    def test_a_damaged_position_means_everything_again(self, append, open_reader, read_on, log_path, content, caplog):
        ids = append(3)
        first = open_reader()
        read_on(first)
        first.close()
        (log_path.parent / "positions" / "shipper.json").write_bytes(content)

        assert read_on(open_reader()) == ids
        assert "damaged" in caplog.text

    def test_a_position_survives_its_json(self):
        position = Position("abc", 17, "def", ("x", "y"))

        assert Position.from_json(position.to_json()) == position

    def test_a_reader_is_registered_before_it_has_read_anything(self, open_reader, log_path):
        open_reader().acquire()

        assert registered_positions(log_path.parent / "positions") == {"shipper": Position()}

    def test_a_position_kept_elsewhere_is_copied_for_the_cap(self, append, open_reader, log_path):
        append(3)
        reader = open_reader("rollup", positions=MemoryPositions())
        batch = reader.read_batch()
        reader.commit(batch)

        assert registered_positions(log_path.parent / "positions") == {"rollup": batch.position}

    def test_a_failed_transaction_is_read_again(self, append, open_reader):
        class Failing(MemoryPositions):
            def save(self, position):
                raise OSError("the disk is on fire")

        ids = append(3)
        reader = open_reader(positions=Failing())
        with pytest.raises(OSError, match="on fire"):
            reader.commit(reader.read_batch())
        reader.close()

        assert [record.request_id for record in reader.read_batch().records] == ids

    def test_a_position_that_cannot_be_saved_is_not_passed(self, append, open_reader, log_path):
        ids = append(3)

        def fails(fd):
            raise OSError(28, "full")

        reader = open_reader(fsync=fails)
        with pytest.raises(OSError, match="full"):
            reader.commit(reader.read_batch())

        assert [record.request_id for record in reader.read_batch().records] == ids

    def test_a_reader_cannot_be_named_out_of_its_directory(self, tmp_path):
        with pytest.raises(ValueError, match="lower-case"):
            FilePositions(tmp_path, "../x")


def test_a_second_reader_of_the_same_name_is_told_that_it_is_busy(append, open_reader, read_on, log_path):
    ids = append(1)
    first, second = open_reader(), open_reader()
    first.acquire()

    with pytest.raises(ReaderBusy, match="shipper"):
        second.read_batch()
    assert read_on(open_reader("rollup")) == ids
    first.close()
    assert read_on(second) == ids


class TestLag:
    def test_lag_counts_what_is_unread_over_all_segments(self, append, open_reader, log_path):
        append(3, timestamp=1700000000)
        size = log_path.stat().st_size
        log_path.rename(log_path.with_name("api_logs.jsonl.1"))
        append(2, timestamp=1700000500)
        reader = open_reader()
        reader.commit(reader.read_batch(max_records=1))

        lag = reader.lag(count_records=True)

        assert (lag.records, lag.oldest) == (4, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC))
        assert lag.bytes == size * 2 // 3 + log_path.stat().st_size

    def test_a_reader_at_the_end_has_none(self, append, open_reader, read_on):
        append(3)
        reader = open_reader()
        read_on(reader)

        lag = reader.lag()

        assert (lag.bytes, lag.records, lag.oldest) == (0, None, None)

    def test_another_process_may_ask_while_one_reads(self, append, open_reader, log_path):
        append(2)
        reader = open_reader()
        reader.commit(reader.read_batch(max_records=1))

        assert LogReader(log_path, "shipper").lag(count_records=True).records == 1

    def test_a_line_that_stands_for_several_counts_as_all_of_them(
        self, append, call_record, open_reader, log_path, monkeypatch
    ):
        monkeypatch.setattr(lag_module, "_CHUNK_BYTES", 100)
        append(2)
        with log_path.open("ab") as file:
            file.write(call_record(count=40).to_line() + call_record(count=2).to_line())

        assert open_reader().lag(count_records=True).records == 44


class TestRegistration:
    def test_what_a_reader_that_never_read_would_owe_is_counted(self, open_reader, log_path):
        open_reader("rollup").register()

        (position,) = registered_positions(log_path.parent / "positions").values()
        assert position == Position()

    def test_a_reader_that_has_read_stays_where_it_is(self, append, open_reader, read_on):
        append(3)
        reader = open_reader()
        read_on(reader)
        reader.close()
        open_reader().register()

        assert open_reader().lag().bytes == 0

    def test_while_another_process_reads_it_is_left_to_that(self, open_reader, log_path):
        reader = open_reader()
        reader.acquire()
        (log_path.parent / "positions" / "shipper.json").unlink(missing_ok=True)
        open_reader().register()

        assert registered_positions(log_path.parent / "positions") == {}

    def test_another_process_can_read_afterwards(self, append, open_reader, read_on):
        ids = append(2)
        open_reader().register()

        assert read_on(open_reader()) == ids
