"""GET /manage/prices: who may ask, a model's prices, and the models without one."""

import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flask import Flask

from accounting.rollup import Rollup, UsageSums
from models import db
from tests.records import append, record


def test_only_the_management_token_opens_it(client):
    assert client.get("/manage/prices", headers={"Authorization": "Bearer another"}).status_code == 401


def test_a_model_s_prices_are_dollars_in_decimal_text(operator):
    told = operator.call("GET", "/prices?model=gpt-5.4-2026-03-05").json

    assert told["price"]["model"] == "gpt-5.4"
    assert (told["price"]["origin"], told["price"]["long_over"]) == (["the sheet"], 272_000)
    assert told["price"]["tiers"]["default"]["out"] == "15.00"
    assert told["price"]["tiers"]["default"]["long"]["out"] == "22.50"
    assert set(told["price"]["tiers"]) == {"default", "flex", "batch", "priority"}
    assert told["price"]["tools"]["web_search"] == "0.01"


@pytest.mark.parametrize(
    ("model", "prices"),
    [
        ("tts-1", {"characters": "15.00"}),
        ("whisper-1", {"minute": "0.006"}),
        ("sora-2", {"second": {"720x1280": "0.10", "1280x720": "0.10"}}),
    ],
)
def test_other_units_have_prices_of_their_own(operator, model, prices):
    assert operator.call("GET", f"/prices?model={model}").json["price"]["tiers"]["default"] == prices


def test_a_model_without_a_price_is_told_with_what_to_write(operator):
    told = operator.call("GET", "/prices?model=house").json

    assert told["price"] is None
    assert told["advice"].startswith('Write into your PRICES_FILE [model."house"]')


def test_models_in_use_without_a_price_are_told(app: Flask, operator, tmp_path: Path):
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    unpriced = {"cost_usd": None, "cost_source": "unpriced", "timestamp": now}
    append(
        tmp_path / "api_logs.jsonl",
        [record(timestamp=now), *(record(request_id=str(uuid.uuid4()), **unpriced, metadata={"model": "m"}),) * 2],
    )
    with app.app_context():
        rollup = Rollup(tmp_path / "api_logs.jsonl", UsageSums(db.engine, "node-1"))
        rollup.step()
        rollup.close()

    [told] = operator.call("GET", "/prices").json["unpriced"]

    assert (told["model"], told["calls"]) == ("m", 2)
    assert "PRICES_FILE" in told["advice"]


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "nonsense=1"])
def test_a_query_that_nobody_understands_is_refused(operator, query):
    assert operator.call("GET", f"/prices?{query}").status_code == 400
