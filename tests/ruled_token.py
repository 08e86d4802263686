"""A project with a ruled token and meters, and whoever claims on them."""

import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from database.claims import open_token_store
from llmproxy.admission import TokenStore, hash_token, utc_now
from llmproxy.limits.bounds import Bounds
from llmproxy.limits.reservations import NOTHING, Charge, Settlement, Verdict, claim_of
from models import Meter, Project, Token, new_id, reservations

NODE, WORKER = "node", "worker"
PROJECT = "f3f9d3f5-46a5-4c3e-9c5a-0c7f6f5f2b11"


class Bench:
    """One ruled token, and what is done with it."""

    def __init__(self, store: TokenStore, session: Session) -> None:
        self.store = store
        self.session = session
        self.token_hash = hash_token(str(uuid.uuid4()))

    def add_project(self, **columns: Any) -> None:
        fields = {"openai_api_key": "sealed", "key_hint": "", "created_at": utc_now()}
        self.session.add(Project(**{"id": PROJECT, "name": "a project", **fields, **columns}))
        self.session.commit()

    def add_token(self, **columns: Any) -> str:
        now = utc_now()
        times = {"created_at": now, "expires_at": now + timedelta(hours=1)}
        token = Token(token_hash=self.token_hash, project_id=PROJECT, **{"is_ruled": True, **times, **columns})
        self.session.add(token)
        self.session.commit()
        return token.id

    def add_meter(self, **columns: Any) -> str:
        complete = {
            "project_id": PROJECT,
            "name": "m",
            "unit": "usd",
            "period": "day",
            "amount": 1_000_000,
            **columns,
        }
        meter = Meter(**complete)
        self.session.add(meter)
        self.session.commit()
        return meter.id

    def claim(self, figures: Bounds, *, request_id: str | None = None, **options: Any) -> tuple[Any, Verdict]:
        """Look, and claim on all meters that there are."""
        state = self.store.state(self.token_hash)
        assert state is not None and state.ruled is not None
        whose: dict[str, Any] = {"request_id": request_id or new_id(), "node": NODE, "worker": WORKER}
        whose["now_us"] = state.ruled.database_us(time.monotonic())
        asked = claim_of(state.ruled, state.ruled.meters, figures, **{"concurrency": None, **whose, **options})
        return self.store.claim_ruled(self.token_hash, asked, utc_now())

    def settle(self, request_id: str, cost: int | None, tokens: int | None = None, state: Any = "settled") -> bool:
        return self.store.settle(Settlement(request_id, Charge(cost, tokens), state))

    def release(self, request_id: str) -> bool:
        return self.store.settle(Settlement(request_id, NOTHING, "settled"))

    def meter(self, meter_id: str) -> Meter:
        self.session.expire_all()
        self.session.rollback()
        found: Meter | None = self.session.get(Meter, meter_id)
        assert found is not None
        return found

    def token(self) -> Token:
        self.session.rollback()
        self.session.expire_all()
        found: Token | None = self.session.get(Token, self.token_hash)
        assert found is not None
        return found

    def rows(self) -> dict[str, Any]:
        """The reservations, by request id."""
        self.session.rollback()
        return {row.request_id: row for row in self.session.execute(select(reservations))}

    def change(self, table: type, **values: Any) -> None:
        self.session.execute(update(table).values(**values))
        self.session.commit()


def cost(at_most: int, likely: int | None = None) -> Bounds:
    """Figures of a call in dollars alone; a token costs a micro-dollar."""
    likely = at_most if likely is None else likely
    return Bounds(at_most, at_most, likely, likely)


@pytest.fixture
def bench(session: Session, database_url: str) -> Iterator[Bench]:
    """A project and a ruled token without meters."""
    store = open_token_store(database_url, default_limit=1000)
    made = Bench(store, session)
    made.add_project()
    made.add_token()
    yield made
    store.close()
