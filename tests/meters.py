"""Budgets for tokens and projects of a running server, and an upstream that uses what its caller says."""

import json
import threading
import time
import uuid
from contextlib import suppress
from typing import Any, NamedTuple

from tests.databases import database_of, execute
from tests.recorder import _read
from tests.servers import Server, Token, wait_for
from tests.upstream import Peer, ScriptedUpstream

DOLLAR = 10**6
# Longer than any test waits: what is held here goes on when the test says so.
WAIT_S = 110.0


class Numbers(NamedTuple):
    """A meter's row."""

    spent: int
    reserved: int
    bounds: int


def add_meter(server: Server, owner: Token | str, **columns: Any) -> str:
    """A meter of a token, or of the project of this id; its own id. As an operator makes one, in fewer steps."""
    meter_id = str(uuid.uuid4())
    whose = (
        {"token_id": owner.id, "project_id": owner.project_id} if isinstance(owner, Token) else {"project_id": owner}
    )
    zeros = dict.fromkeys(("spent", "reserved", "bounds", "mean", "period_end", "alerted"), 0)
    usual = {"name": "m", "unit": "usd", "period": "day", "zone": "UTC", "reserve": "likely", "amount": DOLLAR}
    row = {"id": meter_id, **whose, **usual, **zeros, **columns}
    values = ", ".join(map(repr, row.values()))
    execute(url_of(server), f"INSERT INTO meters ({', '.join(row)}) VALUES ({values})")
    rule(server, owner)
    return meter_id


def rule(server: Server, owner: Token | str, rules: dict[str, Any] | None = None) -> None:
    """Let a token or a project have rules, or meters alone."""
    table, row_id = ("tokens", owner.id) if isinstance(owner, Token) else ("projects", owner)
    set_rules = "" if rules is None else f", rules = '{json.dumps(rules)}'"
    change = f"is_ruled = true, rules_version = rules_version + 1{set_rules}"
    execute(url_of(server), f"UPDATE {table} SET {change} WHERE id = '{row_id}'")


def numbers(server: Server, meter_id: str) -> Numbers:
    """The meter as it stands in the database."""
    [row] = server.rows(f"SELECT spent, reserved, bounds FROM meters WHERE id = '{meter_id}'")
    return Numbers(row["spent"], row["reserved"], row["bounds"])


def settled(server: Server, meter_id: str) -> Numbers:
    """The meter as soon as nothing is held of it."""

    def free() -> Numbers | None:
        found = numbers(server, meter_id)
        return found if found.reserved == found.bounds == 0 else None

    return wait_for(free, otherwise=lambda: f"{numbers(server, meter_id)}\n{server.output()}")


def set_columns(server: Server, table: str, where: str, **columns: Any) -> None:
    """Change rows behind the server's back, where no operator could."""
    values = ", ".join(f"{name} = {value!r}" for name, value in columns.items())
    execute(url_of(server), f"UPDATE {table} SET {values} WHERE {where}")


def url_of(server: Server) -> str:
    """Its database's."""
    return server.settings.get("DATABASE_URL") or database_of(server.data_dir, empty=True)


def asking(model: str = "gpt-4o-mini", *, used: tuple[int, int] = (10, 5), **members: Any) -> bytes:
    """
    A chat request that tells UsingUpstream what it shall have used.

    Args:
        used: Prompt and completion tokens.
    """
    told = {key: members.pop(key) for key in ("waits", "lasts", "status", "silent", "says", "tier") if key in members}
    metadata = {"used": json.dumps(used)} | {key: json.dumps(value) for key, value in told.items()}
    return json.dumps({"model": model, "messages": [], "metadata": metadata} | members).encode()


class UsingUpstream(ScriptedUpstream):
    """
    Serves chats, each as its `metadata` says; see `asking`.

    Attributes:
        seen: Bodies as they came.
        goes_on: Set, requests that wait are answered.
    """

    def __init__(self) -> None:
        super().__init__(every=self._serve)
        self.seen: list[bytes] = []
        self.goes_on = threading.Event()

    def _serve(self, peer: Peer) -> None:
        with suppress(OSError), peer.socket.makefile("rb") as reader:
            while request := _read(reader):
                self.seen.append(request.body)
                self._answer(peer, request.body)

    def _answer(self, peer: Peer, body: bytes) -> None:
        try:
            asked = json.loads(body)
        except ValueError:
            asked = {}
        told = {name: json.loads(value) for name, value in (asked.get("metadata") or {}).items()}
        if told.get("waits"):
            self.goes_on.wait(WAIT_S)
        if seconds := told.get("lasts"):
            time.sleep(seconds)
        read, written = told.get("used", (10, 5))
        usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        usage |= told.get("says", {})
        if told.get("silent"):
            usage = None
        model = asked.get("model", "gpt-4o-mini")
        whole = {"object": "chat.completion", "model": model, "created": 1, "choices": [{}], "usage": usage}
        if "tier" in told:
            whole["service_tier"] = told["tier"]
        if asked.get("stream"):
            self._stream(peer, asked, whole, usage)
            return
        answer = json.dumps(whole).encode()
        status = told.get("status", 200)
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(answer)}\r\n\r\n"
        peer.send(head.encode() + answer)

    def _stream(self, peer: Peer, asked: Any, whole: Any, usage: Any) -> None:
        asks = (asked.get("stream_options") or {}).get("include_usage")
        chunk = whole | {"object": "chat.completion.chunk", "usage": None}
        if not asks:
            del chunk["usage"]
        events = [chunk, chunk, *([chunk | {"choices": [], "usage": usage}] if asks else [])]
        data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {len(data)}\r\n\r\n"
        peer.send(head.encode() + data)
