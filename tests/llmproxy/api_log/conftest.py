import json
import os
import socket
import struct
import subprocess
import threading
import time
import uuid
from collections import Counter, deque
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmproxy.api_log.dead_letters import DeadLetters
from llmproxy.api_log.http_sink import HttpSink
from llmproxy.api_log.logging_url import parse_logging_url
from llmproxy.api_log.reader import LogReader
from llmproxy.api_log.record import CallRecord
from tests.ports import free_port
from tests.post_server import PostServer


@pytest.fixture
def call_record():
    """A factory of records, each with an id of its own."""

    def make(**overrides) -> CallRecord:
        fields = {
            "timestamp": time.time(),
            "request_id": str(uuid.uuid4()),
            "token_id": "3f0f8f8e-7a39-4c1b-8f4b-6f9df3f4a7b1",
            "project_id": "f3f9d3f5-46a5-4c3e-9c5a-0c7f6f5f2b11",
            "endpoint": "/v1/chat/completions",
            "method": "POST",
            "status_code": 200,
            "duration_ms": 12.346,
            "metadata": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21, "model": "gpt-4o"},
            "outcome": "complete",
            "stream": False,
            "ttft_ms": 11.9,
            "upstream_status": 200,
            "upstream_request_id": "req_1",
            "bytes_in": 120,
            "bytes_out": 640,
            "usage_source": "reported",
            "error": None,
        }
        return CallRecord(**(fields | overrides))

    return make


@pytest.fixture
def log_path(tmp_path) -> Path:
    return tmp_path / "api_logs.jsonl"


@pytest.fixture
def append(log_path, call_record):
    """Appends records to the log as a writer would; their ids."""

    def add(count: int = 1, **overrides) -> list[str]:
        records = [call_record(**overrides) for _ in range(count)]
        with log_path.open("ab") as file:
            file.write(b"".join(record.to_line() for record in records))
        return [record.request_id for record in records]

    return add


@pytest.fixture
def damage() -> Counter:
    """What the readers found wrong with the log."""
    return Counter()


@pytest.fixture
def open_reader(log_path, damage):
    """A factory of readers; what is still open at the end is closed."""
    readers = []

    def note(kind: str, count: int) -> None:
        damage[kind] += count

    def make(name: str = "shipper", **options) -> LogReader:
        readers.append(LogReader(log_path, name, on_damage=note, **options))
        return readers[-1]

    yield make
    for reader in readers:
        reader.close()


@pytest.fixture
def read_on():
    """Reads and commits until there is nothing more; the ids in order."""

    def read(reader: LogReader, **limits) -> list[str]:
        ids = []
        while True:
            batch = reader.read_batch(**limits)
            if not batch.size:
                return ids
            ids += [record.request_id for record in batch.records]
            reader.commit(batch)

    return read


@pytest.fixture
def small_disk(tmp_path):
    """A directory on a file system of 4 MiB of its own."""
    path = tmp_path / "small"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system can only be mounted by root")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


class Receiver:
    """
    A real HTTP server that takes batches, or misbehaves as told.

    `script` holds behaviours for the next requests, one each; `always` is what happens after those. A behaviour is
    called with the handler and the decoded records.
    """

    def __init__(self):
        self.batches: list[list[dict]] = []
        self.headers: list[dict[str, str]] = []
        self.script: deque = deque()
        self.always = answer(200)
        self.tried = 0
        self.released = threading.Event()
        self.port = free_port()
        self.start()

    def start(self):
        self.server = PostServer(self.take, port=self.port)

    def stop(self):
        self.server.close()

    def take(self, handler, body):
        handler.receiver = self
        self.tried += 1
        self.headers.append(dict(handler.headers.items()))
        behave = self.script.popleft() if self.script else self.always
        behave(handler, json.loads(body))

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/ingest"

    @property
    def ids(self) -> list[str]:
        return [record["request_id"] for batch in self.batches for record in batch]


def answer(status, text="", **headers):
    """Answers with a status; a batch with a 2xx counts as received."""

    def behave(handler, records):
        if 200 <= status < 300:
            handler.receiver.batches.append(records)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        handler.answer(status, text.encode(), named)

    return behave


def hang(handler, records):
    """Takes the request and says nothing until the test is over."""
    handler.receiver.released.wait(30)
    handler.close_connection = True


def reset(handler, records):
    """Cuts the connection so that the client sees a reset."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def take_and_hang_up(handler, records):
    """Takes the batch, and the answer is lost."""
    handler.receiver.batches.append(records)
    reset(handler, records)


def refuse_poison(handler, records):
    """400 for every batch with a record to /poison, like a receiver that validates."""
    poisonous = any(record["endpoint"] == "/poison" for record in records)
    answer(*((400, "bad record") if poisonous else (200,)))(handler, records)


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.released.set()
    receiver.stop()


@pytest.fixture
def behave():
    """The ways a receiver can behave."""
    return SimpleNamespace(
        answer=answer, hang=hang, reset=reset, take_and_hang_up=take_and_hang_up, refuse_poison=refuse_poison
    )


@pytest.fixture
def dead_letters(tmp_path):
    return DeadLetters(tmp_path / "dead_letters.jsonl")


@pytest.fixture
def open_http_sink(receiver):
    sinks = []

    def make(token=None, url=None, **options):
        sinks.append(HttpSink(parse_logging_url(url or receiver.url), token=token, **options))
        return sinks[-1]

    yield make
    for sink in sinks:
        sink.close()


@pytest.fixture
def unused_port():
    """A port that is bound and never listens, so that every connection to it is refused."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
