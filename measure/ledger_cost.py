"""
What the call log costs: CPU per record written, records per second read and shipped, memory with the receiver down.

    python -m measure.ledger_cost [--records 1000000] [--directory DIR]

Writes real records (about 640 bytes each, so a million are 640 MB) into a temporary directory. The receiver is a
process of its own that takes batches and throws them away; "down" is a port where nobody listens. CPU is user and
system time of this process.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmproxy.api_log.dead_letters import DeadLetters
from llmproxy.api_log.logging_url import parse_logging_url
from llmproxy.api_log.open_sink import open_sink
from llmproxy.api_log.reader import LogReader
from llmproxy.api_log.record import CallRecord
from llmproxy.api_log.shipper import Shipper
from llmproxy.api_log.writer import LogWriter

RECEIVER = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
    def log_message(self, *args):
        pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
print(server.server_port, flush=True)
server.serve_forever()
"""


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--directory", default=None)
    options = parser.parse_args()
    # The receiver that is down on purpose is no news here.
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        log = Path(directory) / "api_logs.jsonl"
        _measure_line_and_write(Path(directory) / "alone.jsonl", options.records // 10)
        _measure_writing_with_the_receiver_down(log, options.records)
        _measure_reading(log)
        _measure_shipping(log)


def _measure_line_and_write(log: Path, count: int) -> None:
    """The hot path alone: what a request pays for its record once it is made."""
    record, writer = _record(), LogWriter(log, max_file_bytes=64 << 20, max_total_bytes=1 << 40)
    with _cpu() as line:
        for _ in range(count):
            record.to_line()
    with _cpu() as write:
        for _ in range(count):
            writer.write(record)
    writer.close()
    print(f"one line             {line.us_per(count):8.2f} µs CPU per record ({len(record.to_line())} bytes)")
    print(f"one write            {write.us_per(count):8.2f} µs CPU per record, its line included")


def _measure_writing_with_the_receiver_down(log: Path, count: int) -> None:
    """Memory is compared from a tenth of the records on, when every buffer has its size."""
    shipper = Shipper(
        LogReader(log, "shipper"),
        open_sink(parse_logging_url("http://127.0.0.1:9/")),
        DeadLetters(log.with_name("dead_letters.jsonl")),
        first_pause_s=0.05,
        max_pause_s=0.05,
    )
    thread = threading.Thread(target=shipper.run)
    thread.start()
    writer = LogWriter(log, max_file_bytes=64 << 20, max_total_bytes=1 << 40)
    _write(writer, count // 10)
    resident = [_resident_mb()]
    with _cpu() as cpu:
        for _ in range(9):
            _write(writer, count // 10)
            resident.append(_resident_mb())
    writer.close()
    shipper.stop()
    thread.join()
    lag = shipper.reader.lag(count_records=True)
    print(
        f"one record in all    {cpu.us_per(count // 10 * 9):8.2f} µs CPU, its making and the failing shipper included"
    )
    print(
        f"resident memory      {' '.join(f'{size:.1f}' for size in resident)} MB after each {count // 10:,} records"
    )
    print(f"waiting in the file  {lag.records:8,} records, {lag.bytes / 1e6:.0f} MB; "
          f"{writer.lost} records lost")  # fmt: skip


def _measure_reading(log: Path) -> None:
    reader = LogReader(log, "benchmark", fsync=lambda _: None)
    count, started = 0, time.perf_counter()
    while (batch := reader.read_batch()).size:
        count += len(batch.records)
        reader.commit(batch)
    reader.close()
    print(f"read and parsed      {count / (time.perf_counter() - started):8,.0f} records/s ({count:,})")


def _measure_shipping(log: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", RECEIVER], stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        url = f"http://127.0.0.1:{int(receiver.stdout.readline())}/"
        dead_letters = DeadLetters(log.with_name("dead_letters.jsonl"))
        shipper = Shipper(LogReader(log, "shipper"), open_sink(parse_logging_url(url)), dead_letters)
        started = time.perf_counter()
        with _cpu() as cpu:
            result = shipper.ship_once()
        rate = result.delivered / (time.perf_counter() - started)
        shipper.close()
        receiver.terminate()
    print(f"shipped afterwards   {rate:8,.0f} records/s ({result.delivered:,}), "
          f"{cpu.us_per(result.delivered):.1f} µs CPU per record, {_resident_mb():.1f} MB resident")  # fmt: skip


def _write(writer: LogWriter, count: int) -> None:
    for _ in range(count):
        writer.write(_record())


def _record() -> CallRecord:
    return CallRecord(
        timestamp=time.time(),
        request_id=str(uuid.uuid4()),
        token_id="3f0f8f8e-7a39-4c1b-8f4b-6f9df3f4a7b1",
        project_id="f3f9d3f5-46a5-4c3e-9c5a-0c7f6f5f2b11",
        endpoint="/v1/chat/completions",
        method="POST",
        status_code=200,
        duration_ms=812.346,
        metadata={
            "prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29, "model": "gpt-4o-2024-08-06",
            "created": 1700000000, "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        },
        outcome="complete",
        stream=False,
        ttft_ms=801.235,
        upstream_status=200,
        upstream_request_id="req_0123456789abcdef",
        bytes_in=512,
        bytes_out=2048,
        usage_source="reported",
        error=None,
    )  # fmt: skip


class _Cpu:
    spent_s = 0.0

    def us_per(self, count: int) -> float:
        """Microseconds for one of so many."""
        return self.spent_s / count * 1e6


@contextmanager
def _cpu() -> Iterator[_Cpu]:
    cpu, started = _Cpu(), time.process_time()
    yield cpu
    cpu.spent_s = time.process_time() - started


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
