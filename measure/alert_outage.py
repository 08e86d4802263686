"""
Whether alerts outlive a receiver that is down: parallel clients use a budget up, nobody takes what is told of it for
so many seconds, and then somebody does.

    python -m measure.alert_outage [--seconds 120] [--clients 64] [--workers 4] [--database postgresql://…]

--database names one on PostgreSQL that holds nothing yet. Each threshold must be in the outbox once, and be
delivered, signed, at least once. Ends with 1 where it is not so.
"""

from __future__ import annotations

import argparse
import base64
import hmac
import json
import secrets
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from database.engine import open_engine
from llmproxy.webhook import PREFIX, signature, signing_key
from measure.suite.sample import CHAT
from measure.suite.server import Server, call, free_port
from measure.suite.stage import proxy
from mock_openai.mock import MockOpenAI

THRESHOLDS = [80, 95, 100]
TOLD_WITHIN_S = 30.0
# A try that failed is made again after a minute at most.
DELIVERED_WITHIN_S = 120.0
LIMITS = {"meters": [{"unit": "usd", "period": "total", "amount": "0.01"}]}
BODY = {"model": "gpt-4o", "max_tokens": 20, "messages": [{"role": "user", "content": "Hello"}]}


class Receiver:
    """
    Listens on its port from `start` on.

    Attributes:
        taken: How often each event came, by its id; `forged` counts those whose signature is wrong.
    """

    def __init__(self, key: bytes) -> None:
        self.port = free_port()
        self.taken: Counter[str] = Counter()
        self.forged = 0
        self._key = key

    def start(self) -> None:
        """From now on it is up."""
        receiver = self

        class Taking(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.take(self.headers, self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(HTTPStatus.NO_CONTENT)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", self.port), Taking)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def take(self, headers: Message, body: bytes) -> None:
        """One event came."""
        event_id = headers["webhook-id"]
        wanted = signature(self._key, event_id, int(headers["webhook-timestamp"]), body)
        self.taken[event_id] += 1
        self.forged += not hmac.compare_digest(wanted, headers["webhook-signature"])


class Outbox:
    """The alerts of budgets, as the database has them."""

    def __init__(self, url: str) -> None:
        self._engine = open_engine(url)

    def rows(self) -> list[tuple[str, int, str]]:
        """Id, threshold and state of each."""
        query = "SELECT id, threshold, state FROM alerts WHERE kind = 'budget.threshold' ORDER BY threshold"
        with self._engine.connect() as connection:
            return [(row.id, row.threshold, row.state) for row in connection.exec_driver_sql(query)]

    def wait_for(self, state: str, patience_s: float) -> float | None:
        """After how many seconds all thresholds were there, in that state; None where they were not."""
        began = time.monotonic()
        while time.monotonic() - began < patience_s:
            if [(threshold, found) for _, threshold, found in self.rows()] == [(each, state) for each in THRESHOLDS]:
                return time.monotonic() - began
            time.sleep(0.2)
        return None


def main() -> None:
    """Run it, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--database", default="")
    options = parser.parse_args()
    secret = PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
    receiver = Receiver(signing_key(secret))
    settings = {"ALERT_URL": f"http://127.0.0.1:{receiver.port}/", "ALERT_SECRET": secret}
    with tempfile.TemporaryDirectory() as work, MockOpenAI() as upstream:
        data_dir = Path(work) / "data"
        port = int(upstream.url.rsplit(":", 1)[1])
        shape = {"workers": options.workers, "limits": LIMITS, "settings": settings}
        with proxy(Server(port), data_dir, database_url=options.database, **shape) as server:
            outbox = Outbox(options.database or f"sqlite:///{data_dir}/llm-proxy.db")
            is_kept = _lose_nothing(server, outbox, receiver, seconds=options.seconds, clients=options.clients)
    sys.exit(not is_kept)


def _lose_nothing(server: Server, outbox: Outbox, receiver: Receiver, *, seconds: float, clients: int) -> bool:
    with ThreadPoolExecutor(clients) as pool:
        seen = sum(pool.map(_use_up, [server] * clients), Counter[str]())
    told_s = outbox.wait_for("waiting", TOLD_WITHIN_S)
    print(f"{clients} clients: {dict(seen)}; in the outbox {_after(told_s)}: {[row[1] for row in outbox.rows()]}")
    time.sleep(seconds)
    receiver.start()
    delivered_s = outbox.wait_for("delivered", DELIVERED_WITHIN_S)
    rows = outbox.rows()
    times = [receiver.taken[event_id] for event_id, _, _ in rows]
    print(
        f"receiver down for {seconds:g} s; all delivered {_after(delivered_s)}; each came {times} times, "
        f"{receiver.forged} with a wrong signature, {len(receiver.taken) - len(rows)} that nobody knows"
    )
    is_known = set(receiver.taken) == {event_id for event_id, _, _ in rows}
    return told_s is not None and delivered_s is not None and is_known and min(times) > 0 and not receiver.forged


def _use_up(server: Server) -> Counter[str]:
    """Call until nothing is left; the responses, by status and code."""
    seen = Counter[str]()
    while not seen["429 budget_exhausted"]:
        status, told = call(server, "POST", CHAT, BODY, patience_s=30)
        code = "" if status == HTTPStatus.OK else json.loads(told)["error"]["code"]
        seen[f"{status} {code}".strip()] += 1
    return seen


def _after(seconds: float | None) -> str:
    return "never" if seconds is None else f"after {seconds:.1f} s"


if __name__ == "__main__":
    main()
