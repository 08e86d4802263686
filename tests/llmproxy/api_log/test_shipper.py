import json
import logging
import os
import random
import subprocess
import sys
import threading

import pytest

from llmproxy.api_log.dead_letters import DeadLetters
from llmproxy.api_log.reader import ReaderBusy
from llmproxy.api_log.shipper import Shipper
from llmproxy.api_log.sink import SinkUnavailable
from llmproxy.api_log.writer import LogWriter


class Pauses:
    """Stands in for the wait between tries: notes each, runs what the test wants then, and stops after the last."""

    def __init__(self, limit=100):
        self.taken = []
        self.limit = limit
        self.then = {}

    def __call__(self, seconds):
        self.taken.append(seconds)
        self.then.pop(len(self.taken), lambda: None)()
        return len(self.taken) >= self.limit


@pytest.fixture
def open_shipper(open_reader, open_http_sink, dead_letters):
    shippers = []

    def make(sink=None, wait=None, **options):
        options = {"uniform": lambda low, high: high, "max_age_s": 0.0} | options
        shippers.append(Shipper(open_reader(), sink or open_http_sink(), dead_letters, wait=wait, **options))
        return shippers[-1]

    yield make
    for shipper in shippers:
        shipper.close()


def letters(dead_letters):
    return [json.loads(line) for line in dead_letters.path.read_bytes().splitlines()]


class TestOnce:
    def test_everything_there_is_arrives_in_order(self, open_shipper, receiver, append, log_path):
        ids = append(7)
        log_path.rename(log_path.with_name("api_logs.jsonl.1"))
        ids += append(5)

        result = open_shipper(max_records=3).ship_once()

        assert receiver.ids == ids and (result.delivered, result.stopped_by) == (12, None)
        assert max(map(len, receiver.batches)) == 3

    def test_what_was_shipped_is_not_shipped_again(self, open_shipper, receiver, append):
        append(3)
        shipper = open_shipper()
        shipper.ship_once()
        shipper.close()
        ids = append(1)

        assert open_shipper().ship_once().delivered == 1
        assert receiver.ids[-1:] == ids and len(receiver.ids) == 4

    def test_a_failing_receiver_ends_it_and_says_why(self, open_shipper, receiver, behave, append):
        ids = append(3)
        receiver.script.append(behave.answer(503))
        shipper = open_shipper()

        result = shipper.ship_once()

        assert (result.delivered, result.stopped_by) == (0, "it answered 503")
        assert shipper.ship_once().delivered == 3 and receiver.ids == ids

    def test_an_empty_ledger_is_nothing_to_do(self, open_shipper, receiver):
        assert open_shipper().ship_once().delivered == 0 and receiver.tried == 0

    def test_only_one_process_ships(self, open_shipper, append):
        append(1)
        first, second = open_shipper(), open_shipper()
        first.ship_once()

        with pytest.raises(ReaderBusy):
            second.ship_once()


class TestPoison:
    def test_the_record_at_fault_is_set_aside_and_all_others_arrive_once(
        self, open_shipper, receiver, behave, append, dead_letters
    ):
        receiver.always = behave.refuse_poison
        good = append(20)
        bad = append(1, endpoint="/poison")
        good += append(30)
        bad += append(1, endpoint="/poison")

        result = open_shipper().ship_once()

        assert receiver.ids == good
        assert (result.delivered, result.dead_lettered, dead_letters.count()) == (50, 2, 2)
        assert [letter["record"]["request_id"] for letter in letters(dead_letters)] == bad
        assert letters(dead_letters)[0]["reason"] == "400 bad record"

    def test_a_batch_that_is_too_large_is_halved(self, open_shipper, receiver, behave, append, dead_letters):
        def takes_four(handler, records):
            behave.answer(200 if len(records) <= 4 else 413)(handler, records)

        receiver.always = takes_four
        ids = append(20)
        open_shipper().ship_once()

        assert receiver.ids == ids and dead_letters.count() == 0

    def test_an_outage_amid_the_search_repeats_no_delivered_part(
        self, open_shipper, receiver, behave, append, dead_letters
    ):
        ids = append(3)
        append(1, endpoint="/poison")
        receiver.script.extend([behave.refuse_poison, behave.answer(200), behave.answer(503)])
        receiver.always = behave.refuse_poison
        shipper = open_shipper()
        first = shipper.ship_once()
        shipper.ship_once()

        assert first.stopped_by == "it answered 503"
        assert receiver.ids == ids and dead_letters.count() == 1

    def test_dead_letters_that_cannot_be_written_hold_the_position(
        self, open_reader, open_http_sink, receiver, behave, append, tmp_path
    ):
        append(1)
        receiver.always = behave.answer(400)
        shipper = Shipper(open_reader(), open_http_sink(), DeadLetters(tmp_path / "none" / "dead_letters.jsonl"))

        with pytest.raises(FileNotFoundError):
            shipper.ship_once()
        assert shipper.reader.lag().bytes > 0

    def test_half_a_dead_letter_does_not_touch_the_next(self, open_shipper, receiver, behave, append, dead_letters):
        receiver.always = behave.answer(422)
        dead_letters.path.write_bytes(b'{"set_as')
        ids = append(1)
        open_shipper().ship_once()

        assert json.loads(dead_letters.path.read_bytes().splitlines()[1])["record"]["request_id"] == ids[0]


class TestRun:
    def test_a_receiver_in_every_kind_of_trouble_gets_everything_in_the_end(
        self, open_shipper, open_http_sink, receiver, behave, append, caplog
    ):
        caplog.set_level(logging.INFO)
        ids = append(10)
        pauses = Pauses(limit=10)
        pauses.then = {6: receiver.stop, 8: receiver.start}
        faults = [
            behave.answer(500),
            behave.reset,
            behave.hang,
            behave.answer(429, Retry_After="9"),
            behave.answer(401),
        ]
        receiver.script.extend([*faults, behave.take_and_hang_up])
        shipper = open_shipper(open_http_sink(read_timeout_s=3), wait=pauses, max_records=5)
        shipper.run()

        assert set(receiver.ids) == set(ids)
        assert receiver.ids[5:] == ids, "the batch whose answer was lost comes twice, no other"
        assert pauses.taken[:8] == [1, 2, 4, 8 + 9, 16, 32, 60, 60]
        assert (shipper.shipped.delivered, shipper.shipped.stopped_by) == (10, None)
        assert "takes call records again" in caplog.text

    def test_the_pause_is_drawn_at_random_below_its_bound(self, open_shipper, receiver, behave, append):
        append(1)
        receiver.always = behave.answer(500)
        bounds = []

        def draw(low, high):
            bounds.append((low, high))
            return 0.7

        pauses = Pauses(limit=3)
        open_shipper(wait=pauses, uniform=draw, first_pause_s=2, max_pause_s=7).run()

        assert bounds == [(0, 2), (0, 4), (0, 7)] and pauses.taken == [0.7] * 3

    def test_an_absurd_retry_after_is_capped_at_an_hour(self, open_shipper, receiver, behave, append):
        append(1)
        receiver.always = behave.answer(503, Retry_After="99999999")
        pauses = Pauses(limit=1)
        open_shipper(wait=pauses, uniform=lambda low, high: 0.0).run()

        assert pauses.taken == [3600]

    def test_an_outage_of_hours_is_one_line_in_the_log(self, open_shipper, receiver, behave, append, caplog):
        append(1)
        receiver.always = behave.answer(500)
        open_shipper(wait=Pauses(limit=50)).run()

        assert len(caplog.records) == 1 and "it answered 500" in caplog.text

    def test_a_batch_leaves_when_it_is_full_or_old_enough(self, open_shipper, receiver, append):
        clock = iter([0.0, 0.0, 2.0, 4.0, 4.9, 5.0, 5.0, 5.0])
        append(2)
        pauses = Pauses(limit=6)
        shipper = open_shipper(wait=pauses, monotonic=lambda: next(clock), max_age_s=5.0, poll_s=2.0, max_records=4)
        pauses.then = {4: lambda: append(1), 5: lambda: append(5)}
        shipper.run()

        assert [len(batch) for batch in receiver.batches] == [3, 4]

    def test_a_second_process_stands_by_and_takes_over(self, open_shipper, receiver, append):
        ids = append(2)
        first = open_shipper()
        first.reader.acquire()
        pauses = Pauses(limit=3)
        pauses.then = {2: first.close}
        open_shipper(wait=pauses).run()

        assert pauses.taken[:2] == [5.0, 5.0] and receiver.ids == ids

    def test_a_position_that_cannot_be_saved_does_not_send_records_for_ever(
        self, open_shipper, receiver, append, caplog, monkeypatch
    ):
        ids = append(6)
        shipper = open_shipper(max_records=2)
        shipper.reader.acquire()

        def full(position):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(shipper.reader.positions, "save", full)
        shipper.ship_once()

        assert receiver.ids == ids and "cannot be saved" in caplog.text

    def test_nothing_that_goes_wrong_ends_it(self, open_shipper, append, caplog):
        class Broken:
            name = "broken"
            tries = 0

            def deliver(self, entries):
                self.tries += 1
                raise RuntimeError("a bug")

            def close(self):
                pass

        append(1)
        sink = Broken()
        open_shipper(sink=sink, wait=Pauses(limit=3)).run()

        assert sink.tries == 3 and "trying again" in caplog.text

    def test_stop_ends_it_and_frees_the_lock(self, open_shipper, receiver, append):
        ids = append(1)
        shipper = open_shipper()
        receiver.always = lambda handler, records: (
            shipper.stop(),
            receiver.batches.append(records),
            handler.send_error(500),
        )
        thread = threading.Thread(target=shipper.run)
        thread.start()
        thread.join(60)

        assert not thread.is_alive() and receiver.ids == ids
        open_shipper().reader.acquire()

    def test_memory_holds_one_batch_however_long_the_receiver_is_down(self, open_shipper, append):
        class Down:
            name = "down"
            largest = 0

            def deliver(self, entries):
                self.largest = max(self.largest, len(entries))
                raise SinkUnavailable("down")

            def close(self):
                pass

        append(5000)
        sink = Down()
        shipper = open_shipper(sink=sink, wait=Pauses(limit=20), max_records=100)
        shipper.run()

        assert sink.largest == 100 and shipper.reader.lag(count_records=True).records == 5000


SHIP = """
import sys
from pathlib import Path
from llmproxy.api_log.dead_letters import DeadLetters
from llmproxy.api_log.logging_url import parse_logging_url
from llmproxy.api_log.open_sink import open_sink
from llmproxy.api_log.reader import LogReader
from llmproxy.api_log.shipper import Shipper
log = Path(sys.argv[1])
sink = open_sink(parse_logging_url(sys.argv[2]))
shipper = Shipper(LogReader(log, "shipper"), sink, DeadLetters(log.with_name("dead_letters.jsonl")), max_records=7)
while shipper.ship_once().delivered:
    pass
"""


def test_a_shipper_killed_at_any_instant_leaves_nothing_out(log_path, receiver, behave, call_record):
    chance = random.Random(20261123)
    victim = None

    def ship():
        return subprocess.Popen([sys.executable, "-c", SHIP, str(log_path), receiver.url], stderr=subprocess.DEVNULL)

    def kill_sometimes(handler, records):
        fate = chance.choice(["live"] * 6 + ["before", "after", "soon"])
        if fate == "before":
            os.kill(victim.pid, 9)
        behave.refuse_poison(handler, records)
        if fate == "after":
            os.kill(victim.pid, 9)
        if fate == "soon":
            threading.Timer(chance.random() / 200, lambda process=victim: process.kill()).start()

    receiver.always = kill_sometimes
    writer = LogWriter(
        log_path, max_file_bytes=20_000, max_total_bytes=2 << 30, monotonic=iter(range(10_000_000)).__next__
    )
    written, poisonous, deaths = set(), set(), 0
    while deaths < 8:
        for _ in range(120):
            record = call_record(endpoint="/poison" if chance.random() < 0.02 else "/v1/models")
            (poisonous if record.endpoint == "/poison" else written).add(record.request_id)
            writer.write(record)
        victim = ship()
        deaths += victim.wait() == -9
    writer.close()
    receiver.always = behave.refuse_poison
    last = ship()

    assert last.wait() == 0
    assert set(receiver.ids) == written
    aside = {json.loads(line)["record"]["request_id"] for line in log_path.with_name("dead_letters.jsonl").open()}
    assert aside == poisonous


COOPERATES = """
from gevent import monkey; monkey.patch_all()
import sys, threading
from pathlib import Path
import gevent
from gevent.pywsgi import WSGIServer
from llmproxy.api_log.dead_letters import DeadLetters
from llmproxy.api_log.logging_url import parse_logging_url
from llmproxy.api_log.open_sink import open_sink
from llmproxy.api_log.reader import LogReader
from llmproxy.api_log.shipper import Shipper

sizes = []
def receive(environ, start_response):
    sizes.append(len(environ["wsgi.input"].read()))
    if len(sizes) == 1:
        start_response("503 Later", [("Retry-After", "0")])
        return [b""]
    start_response("204 No Content", [])
    if len(sizes) == 4:
        shipper.stop()
    return [b""]

server = WSGIServer(("127.0.0.1", 0), receive, log=None)
server.start()
log = Path(sys.argv[1])
sink = open_sink(parse_logging_url(f"http://127.0.0.1:{server.server_port}/"))
shipper = Shipper(LogReader(log, "shipper"), sink, DeadLetters(log.with_name("dead_letters.jsonl")),
                  max_records=2, max_age_s=0, first_pause_s=0.01)
thread = threading.Thread(target=shipper.run)
thread.start()
thread.join()
print(shipper.shipped.delivered)
"""


def test_under_gevent_the_shipper_yields_to_the_receiver_in_its_own_process(append, log_path):
    append(6)
    done = subprocess.run(
        [sys.executable, "-c", COOPERATES, str(log_path)], capture_output=True, text=True, timeout=200, check=False
    )

    assert done.stdout.strip() == "6", done.stderr
