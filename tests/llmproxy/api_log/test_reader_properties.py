"""Random lives of a log: appends, torn lines, every kind of rotation, crashes of the reader at any point."""

import os
import shutil
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmproxy.api_log.reader import LogReader
from tests.llmproxy.api_log.stores import MemoryPositions


class LedgerLife(RuleBasedStateMachine):
    """What was written and not yet committed must come; what was committed must not come again."""

    def __init__(self):
        super().__init__()
        self.directory = TemporaryDirectory()
        self.log = Path(self.directory.name) / "api_logs.jsonl"
        self.written: list[str] = []
        self.torn_end = False
        self.rotations = 0
        self.delivered: list[str] = []
        self.damage: list[str] = []
        # A store like the rollup's: the position and the sums are saved in one step, or not at all.
        self.store = MemoryPositions()
        self.reader = self.new_reader()

    def new_reader(self):
        note = self.damage.append
        return LogReader(
            self.log, "rollup", positions=self.store, on_damage=lambda kind, _: note(kind), fsync=lambda fd: None
        )

    def append_bytes(self, data: bytes):
        with self.log.open("ab") as file:
            file.write(data)

    @rule(count=st.integers(1, 4), padding=st.integers(40, 3000))
    def append(self, count, padding):
        for _ in range(count):
            self.written.append(str(uuid.uuid4()))
            line = f'{{"timestamp":"2026","request_id":"{self.written[-1]}","pad":"{"x" * padding}"}}\n'
            self.append_bytes(line.encode())
        self.torn_end = False

    @rule(kept=st.integers(1, 30), ended=st.booleans())
    def tear_a_line(self, kept, ended):
        self.append_bytes(b'{"timestamp":"2026","request_id":"never"'[:kept] + (b"\n" if ended else b""))

    @rule()
    def blank_line(self):
        self.append_bytes(b"\n")

    @precondition(lambda self: self.log.exists())
    @rule()
    def rotate_by_renaming(self):
        self.rotations += 1
        self.log.rename(self.log.with_name(f"api_logs.{20260000 + self.rotations}T000000000000Z.jsonl"))

    @precondition(lambda self: self.log.exists())
    @rule()
    def rotate_by_numbers(self):
        for number in range(20, 0, -1):
            old = self.log.with_name(f"api_logs.jsonl.{number}")
            if old.exists():
                old.rename(self.log.with_name(f"api_logs.jsonl.{number + 1}"))
        self.log.rename(self.log.with_name("api_logs.jsonl.1"))

    @precondition(lambda self: self.log.exists())
    @rule()
    def rotate_by_copytruncate(self):
        self.rotations += 1
        shutil.copy(self.log, self.log.with_name(f"api_logs-{self.rotations}.jsonl"))
        os.truncate(self.log, 0)

    @rule(max_records=st.integers(1, 5), max_bytes=st.sampled_from([1, 100, 5000, 1 << 20]))
    def read_and_commit(self, max_records, max_bytes):
        batch = self.reader.read_batch(max_records=max_records, max_bytes=max_bytes)
        self.reader.commit(batch)
        self.delivered += [record.request_id for record in batch.records]

    @rule(max_records=st.integers(1, 5))
    def crash_before_the_commit(self, max_records):
        self.reader.read_batch(max_records=max_records)
        self.reader.close()
        self.reader = self.new_reader()

    @rule()
    def crash_after_the_commit(self):
        batch = self.reader.read_batch()
        self.store.save(batch.position)
        self.delivered += [record.request_id for record in batch.records]
        self.reader.close()
        self.reader = self.new_reader()

    @invariant()
    def nothing_comes_twice(self):
        assert len(self.delivered) == len(set(self.delivered))

    def teardown(self):
        for _ in range(len(self.written) + 50):
            self.read_and_commit(5, 1 << 20)
        self.reader.close()
        self.directory.cleanup()
        assert sorted(self.delivered) == sorted(self.written)
        assert set(self.damage) <= {"torn"}


TestLedgerLife = LedgerLife.TestCase
TestLedgerLife.settings = settings(max_examples=40, stateful_step_count=30)
