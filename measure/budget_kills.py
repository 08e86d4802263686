"""
Whether a budget stays exact while something goes wrong: calls without a pause on one token with meters, and every two
seconds one of the workers gone without a warning; or something else, for so many seconds.

    python -m measure.budget_kills [--seconds 60] [--clients 32] [--workers 4] [--database postgresql://…]
                                   [--pause S | --lock S | --away S]

--pause lets one worker stand still, --lock keeps the table of tokens locked, and --away lets nobody reach
the database, which needs --database. One that holds nothing yet.

When the load is over nothing may be held, within a minute; and what is spent must be what the records tell, plus what
is assumed of calls that left none. Ends with 1 where it is not.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from database.engine import open_engine
from llmproxy.api_log.read_record import parse_line
from measure.database_way import DatabaseWay
from measure.suite.sample import CHAT
from measure.suite.server import Server, children
from measure.suite.stage import proxy
from mock_openai.mock import MockOpenAI

KILL_EVERY_S = 2.0
FREE_WITHIN_S = 60.0
PASSED_WITHIN_S = 30.0
PLENTY = 10**9
LIMITS = {
    "rules": {"concurrency": 16},
    "meters": [
        {"unit": "usd", "period": "total", "amount": str(PLENTY)},
        {"unit": "usd", "period": "day", "amount": str(PLENTY), "reserve": "bound"},
    ],
}


class Load:
    """
    Clients, each on a connection of its own until that breaks.

    Attributes:
        seen: Responses by status and code, and connections that broke.
    """

    def __init__(self, server: Server, clients: int) -> None:
        self._server = server
        self._clients = clients
        self.seen: Counter[str] = Counter()

    def run(self, seconds: float, trouble: Callable[[float], str]) -> str:
        """Call for so long, with this trouble meanwhile, which is told the end of it; what it was."""
        deadline = time.monotonic() + seconds
        clients = [threading.Thread(target=self._call_until, args=(deadline,)) for _ in range(self._clients)]
        for client in clients:
            client.start()
        told = trouble(deadline)
        for client in clients:
            client.join()
        return told

    def _call_until(self, deadline: float) -> None:
        body = {"model": "gpt-4o", "max_tokens": 500, "messages": [{"role": "user", "content": "Hello"}]}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._server.bearer}"}
        while time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=30)
            try:
                while time.monotonic() < deadline:
                    asked = body | {"stream": random.random() < 0.3}
                    connection.request("POST", CHAT, json.dumps(asked), headers)
                    response = connection.getresponse()
                    told = response.read()
                    code = "" if response.status == http.HTTPStatus.OK else json.loads(told)["error"]["code"]
                    self.seen[f"{response.status} {code}".strip()] += 1
            except (OSError, http.client.HTTPException, ValueError):
                self.seen["connection broke"] += 1
                time.sleep(0.05)
            finally:
                connection.close()


# Troubles.


def killing(server: Server, deadline: float) -> str:
    """Kill a worker every two seconds, until then."""
    kills = 0
    while time.monotonic() < deadline - KILL_EVERY_S:
        time.sleep(KILL_EVERY_S)
        if workers := children(server.master or 0):
            os.kill(random.choice(workers), signal.SIGKILL)
            kills += 1
    return f"{kills} workers killed"


def pausing(server: Server, seconds: float) -> str:
    """Let one worker stand still for so long."""
    pid = random.choice(children(server.master or 0))
    os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    # Its master may have replaced it meanwhile.
    if pid not in children(server.master or 0):
        return f"a worker stood still for {seconds:g} s, and was replaced"
    os.kill(pid, signal.SIGCONT)
    return f"a worker stood still for {seconds:g} s, and went on"


def locking(url: str, seconds: float) -> str:
    """Keep everybody from writing for so long."""
    time.sleep(1)
    engine = open_engine(url)
    is_sqlite = engine.dialect.name == "sqlite"
    with engine.connect() as connection:
        # Of several tables statements take some in one order and some in another, and would wait in a ring.
        lock = "BEGIN IMMEDIATE" if is_sqlite else "LOCK TABLE tokens IN SHARE MODE"
        raw = connection.connection.driver_connection
        raw.execute(lock)  # type: ignore[union-attr]
        time.sleep(seconds)
        raw.execute("ROLLBACK")  # type: ignore[union-attr]
    engine.dispose()
    return f"the table locked for {seconds:g} s"


def shutting(way: DatabaseWay, seconds: float) -> str:
    """Let nobody reach the database for so long."""
    time.sleep(1)
    way.shut(seconds)
    return f"the database away for {seconds:g} s"


def main() -> None:
    """Run it, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--database", default="")
    troubles = parser.add_mutually_exclusive_group()
    for name in ("--pause", "--lock", "--away"):
        troubles.add_argument(name, type=float, default=0)
    options = parser.parse_args()
    if options.away and not options.database:
        parser.error("--away needs --database")
    with tempfile.TemporaryDirectory() as work, MockOpenAI() as upstream:
        data_dir = Path(work) / "data"
        port = int(upstream.url.rsplit(":", 1)[1])
        url = options.database or f"sqlite:///{data_dir}/llm-proxy.db"
        way = DatabaseWay(url) if options.away else None
        reached = way.url if way else options.database
        with proxy(Server(port), data_dir, workers=options.workers, limits=LIMITS, database_url=reached) as server:

            def trouble(deadline: float) -> str:
                if way:
                    return shutting(way, options.away)
                if options.lock:
                    return locking(url, options.lock)
                return pausing(server, options.pause) if options.pause else killing(server, deadline)

            load = Load(server, options.clients)
            told = load.run(options.seconds, trouble)
            is_exact = _look(url, data_dir)
    print(f"{told}; {dict(load.seen)}")
    sys.exit(not is_exact)


def _look(url: str, data_dir: Path) -> bool:
    engine = open_engine(url)

    def ask(query: str) -> list[Any]:
        with engine.connect() as connection:
            return list(connection.exec_driver_sql(query))

    def is_free() -> bool:
        [[held, bounds]] = ask("SELECT sum(reserved), sum(bounds) FROM meters")
        [[in_flight]] = ask("SELECT sum(in_flight) FROM tokens")
        return bool(held == bounds == in_flight == 0)

    free_s = _wait_for(is_free, FREE_WITHIN_S)
    _wait_for(lambda: not ask("SELECT 1 FROM reservations WHERE state = 'settled'"), PASSED_WITHIN_S)
    left = ask("SELECT state, estimate FROM reservations")
    assumed = sum(estimate for state, estimate in left if state == "assumed")
    records = {}
    for path in data_dir.glob("api_logs*.jsonl*"):
        for line in path.open("rb"):
            if record := parse_line(line):
                records[record.request_id] = record.cost or 0
    spent = [row[0] for row in ask("SELECT spent FROM meters")]
    told = sum(records.values())
    free = "never" if free_s is None else f"after {free_s:.1f} s"
    print(f"nothing held {free}; spent {spent}, records {told} + assumed {assumed} of {len(left)} calls without one")
    engine.dispose()
    return free_s is not None and set(spent) == {told + assumed}


def _wait_for(is_so: Callable[[], bool], patience_s: float) -> float | None:
    """After how many seconds it was so; None where it was not."""
    began = time.monotonic()
    while time.monotonic() - began < patience_s:
        if is_so():
            return time.monotonic() - began
        time.sleep(0.2)
    return None


if __name__ == "__main__":
    main()
