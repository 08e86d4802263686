"""Random histories of calls: the database has at each step what the meters' arithmetic says."""

import random
import time
from typing import Any, NamedTuple

import pytest

import llmproxy.limits.meters as arithmetic
from llmproxy.admission import utc_now
from llmproxy.limits.bounds import Bounds
from llmproxy.limits.periods import period_ends
from llmproxy.limits.reservations import Charge, Hold, Settlement, State, claim_of, ended, holds_of, judged
from models import Meter, Token, new_id
from tests.database.claims.test_ruled import now_us
from tests.ruled_token import NODE, WORKER, Bench

KINDS: list[dict[str, Any]] = [
    {"unit": "usd", "period": "day", "zone": "Asia/Tokyo"},
    {"unit": "usd", "period": "total", "reserve": "bound"},
    {"unit": "usd", "period": "month", "mean": 1_000},
    {"unit": "tokens", "period": "week"},
    {"unit": "tokens", "period": "hour"},
    {"unit": "tokens", "period": "minute"},
    {"unit": "requests", "period": "day"},
    {"unit": "requests", "period": "minute"},
]


class Row(NamedTuple):
    """A reservation, as it should be."""

    state: State
    holds: list[Hold]
    at_us: int


class Model:
    """What the database should hold."""

    def __init__(self, bench: Bench, chosen: random.Random) -> None:
        self.bench, self.chosen = bench, chosen
        self.meters: dict[str, arithmetic.Meter] = {}
        self.rows: dict[str, Row] = {}
        for kind in chosen.sample(KINDS, chosen.randint(1, 4)):
            meter_id = bench.add_meter(**kind, amount=chosen.choice([0, 1_000, 100_000, 10**9, 10**15]))
            self.meters[meter_id] = self.kept(meter_id)

    def kept(self, meter_id: str) -> arithmetic.Meter:
        row = self.bench.meter(meter_id)
        return arithmetic.Meter(**{name: getattr(row, name) for name in arithmetic.Meter._fields})

    def claim(self) -> None:
        likely = self.chosen.choice([0, 1, 500, 50_000])
        most = likely * self.chosen.choice([1, 3, 100])
        figures = Bounds(most, most // 2, likely, likely // 2)
        look = self.bench.store.state(self.bench.token_hash).ruled
        whose = {"request_id": new_id(), "node": NODE, "worker": WORKER, "now_us": look.database_us(time.monotonic())}
        asked = claim_of(look, look.meters, figures, concurrency=self.chosen.choice([None, None, 3]), **whose)
        before = [self.meters[demand.meter_id] for demand in asked.demands]
        grant, verdict = self.bench.store.claim_ruled(self.bench.token_hash, asked, utc_now())

        meters, calls, is_admitted = judged(before, asked.demands, verdict.now_us)
        is_admitted &= asked.concurrency is None or self.running() < asked.concurrency
        assert (grant is not None, verdict.is_admitted, verdict.is_stale) == (is_admitted, is_admitted, False)
        assert verdict.meters == tuple(meters)
        if is_admitted:
            self.meters |= {
                meter.id: arithmetic.admitted(meter, call) for meter, call in zip(meters, calls, strict=True)
            }
            if asked.reserves:
                self.rows[asked.request_id] = Row("held", holds_of(meters, calls, asked.demands), verdict.now_us)

    def settle(self) -> None:
        request_id = self.chosen.choice([*self.rows, new_id()])
        target = self.chosen.choice(["settled", "settled", "assumed", None])
        told = target != "assumed" and self.chosen.random() < 0.8
        charge = (
            Charge(self.chosen.choice([0, 70, 10**7]), self.chosen.choice([0, 9, 10**6]))
            if told
            else Charge(None, None)
        )
        row = self.rows.get(request_id)

        assert self.bench.store.settle(Settlement(request_id, charge, target)) is (row is not None)

        if row is None:
            return
        if row.state == "held" or (row.state == "assumed" and target != "assumed"):
            self.charge(row, charge)
        if target is None:
            del self.rows[request_id]
        elif row.state == "held" or target == "settled":
            self.rows[request_id] = row._replace(state=target)

    def charge(self, row: Row, charge: Charge) -> None:
        for hold in row.holds:
            meter = self.meters[hold.meter_id]
            ends = period_ends(meter.period, meter.zone, now_us())
            self.meters[meter.id] = ended(meter, hold, row.state, charge, at_us=row.at_us, now_us=now_us(), ends=ends)

    def turn(self) -> None:
        """Let the periods of all meters be over."""
        self.bench.change(Meter, period_end=5)
        self.meters = {name: meter._replace(period_end=5) for name, meter in self.meters.items()}

    def raise_amounts(self) -> None:
        self.bench.change(Meter, amount=10**9)
        self.meters = {name: meter._replace(amount=10**9) for name, meter in self.meters.items()}

    def running(self) -> int:
        return sum(row.state == "held" for row in self.rows.values())

    def check(self) -> None:
        assert {meter_id: self.kept(meter_id) for meter_id in self.meters} == self.meters
        rows = {name: (row.state, [Hold(*hold) for hold in row.holds]) for name, row in self.bench.rows().items()}
        assert rows == {name: (row.state, row.holds) for name, row in self.rows.items()}
        assert self.bench.token().in_flight == self.running()

    def end(self) -> None:
        """Settle all that runs: then nothing is held."""
        for request_id in self.rows:
            self.bench.store.settle(Settlement(request_id, Charge(1, 1), None))
        for meter_id in self.meters:
            assert (self.bench.meter(meter_id).reserved, self.bench.meter(meter_id).bounds) == (0, 0)
        assert self.bench.token().in_flight == 0


@pytest.mark.parametrize("seed", range(12))
def test_a_random_history_leaves_what_the_arithmetic_says(bench, seed):
    chosen = random.Random(seed)
    bench.change(Token, rate_limit=10**6)
    model = Model(bench, chosen)
    for _ in range(40):
        step = chosen.choices([model.claim, model.settle, model.turn, model.raise_amounts], [10, 8, 1, 1])[0]
        step()
        model.check()
    model.end()
