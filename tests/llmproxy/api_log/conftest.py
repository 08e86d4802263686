import os
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from llmproxy.api_log.reader import LogReader
from llmproxy.api_log.record import CallRecord


@pytest.fixture
def call_record():
    """A factory of records, each with an id of its own."""

    def make(**overrides) -> CallRecord:
        fields = {
            "timestamp": time.time(),
            "request_id": str(uuid.uuid4()),
            "token": "3f0f8f8e-7a39-4c1b-8f4b-6f9df3f4a7b1",
            "project_id": "f3f9d3f5-46a5-4c3e-9c5a-0c7f6f5f2b11",
            "endpoint": "/v1/chat/completions",
            "method": "POST",
            "status_code": 200,
            "duration_ms": 12.3456,
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
def open_reader(log_path):
    """A factory of readers; what is still open at the end is closed."""
    readers = []

    def make(name: str = "shipper", **options) -> LogReader:
        readers.append(LogReader(log_path, name, **options))
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
            if not batch.lines and not batch.torn:
                return ids
            ids += [record["request_id"] for record in batch.records]
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
