"""
What admitting a ruled call costs beside a plain one, and settling it: CPU µs of this process, one after the other.

    python -m measure.ruled_claim_cost [--calls 3000] [--database postgresql://…]

SQLite in a temporary directory, and with --database PostgreSQL too, which must hold nothing but this script's tables.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from database.claims import open_token_store
from database.engine import background_transaction, open_engine
from database.schema import migrate_to_head
from llmproxy.admission import TokenStore
from llmproxy.limits.bounds import Bounds
from llmproxy.limits.reservations import Charge, Settlement, claim_of
from models import Meter, Project, Token

FIGURES = Bounds(50_000, 20_000, 2_000, 1_000)
MOST_METERS = 3
ROUNDS = 20
NO_LIMIT = 2**31 - 1


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=6000)
    parser.add_argument("--database", default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        urls = [f"sqlite:///{directory}/claims.db", *([options.database] if options.database else [])]
        for url in urls:
            print(url.partition(":")[0])
            _prepare(url, Path(directory))
            _measure(open_token_store(url, default_limit=NO_LIMIT), options.calls)


def _prepare(url: str, directory: Path) -> None:
    """A plain token, and ruled ones with as many meters as their hash says."""
    engine = open_engine(url)
    migrate_to_head(engine, directory)
    now = datetime.now(UTC)
    times = {"created_at": now, "expires_at": now + timedelta(days=1)}
    project_id = str(uuid.uuid4())
    with background_transaction(engine) as connection:
        fields = {"openai_api_key": "sealed", "key_hint": "", "created_at": now}
        connection.execute(Project.__table__.insert().values(id=project_id, name=project_id, **fields))
        tokens, meters = Token.__table__.insert(), Meter.__table__.insert()
        connection.execute(tokens.values(token="plain", project_id=project_id, **times))
        for count in range(MOST_METERS + 1):
            ruled = {"token": str(count), "id": str(uuid.uuid4()), "is_ruled": True}
            connection.execute(tokens.values(project_id=project_id, **ruled, **times))
            meter = {"project_id": project_id, "token_id": ruled["id"], "name": "m", "period": "day"}
            for unit in ("usd", "tokens", "usd")[:count]:
                connection.execute(meters.values(id=str(uuid.uuid4()), unit=unit, amount=10**15, **meter))


def _measure(store: TokenStore, calls: int) -> None:
    now = datetime.now(UTC)
    print(f"  plain claim{'':22}{_us(lambda: store.claim('plain', now), calls):8.1f}")
    for count in range(MOST_METERS + 1):
        name, made = str(count), list[Settlement]()
        look = _us(partial(store.state, name), calls)
        refused = _us(partial(store.claim, name, now), calls)
        claimed = _us(partial(_claim, store, name, now, made), calls) - look
        settled = _us(partial(_settle, store, made), len(made)) if made else 0.0
        told = f"plain claim tried {refused:6.1f}, look {look:6.1f}, claim {claimed:6.1f}, settlement {settled:6.1f}"
        print(f"  ruled, {count} meters: {told}")


def _claim(store: TokenStore, name: str, now: datetime, made: list[Settlement]) -> None:
    state = store.state(name)
    assert state is not None
    assert state.ruled is not None
    request_id = str(uuid.uuid4())
    whose = {"request_id": request_id, "node": "n", "worker": "w"}
    now_us = state.ruled.database_us(time.monotonic())
    asked = claim_of(state.ruled, state.ruled.meters, FIGURES, now_us=now_us, concurrency=None, **whose)
    grant, verdict = store.claim_ruled(name, asked, now)
    assert grant is not None
    if asked.reserves:
        made.append(Settlement(request_id, Charge(1_500, 900), None, verdict.meters))


def _settle(store: TokenStore, made: list[Settlement]) -> None:
    store.settle(made.pop())


def _us(work: Callable[[], object], count: int) -> float:
    """The least of some rounds: what else the machine does only adds."""
    return min(_round_us(work, count // ROUNDS) for _ in range(ROUNDS))


def _round_us(work: Callable[[], object], count: int) -> float:
    began = time.process_time()
    for _ in range(count):
        work()
    return (time.process_time() - began) / count * 1e6


if __name__ == "__main__":
    main()
