"""A question to the database that takes long keeps nobody of the worker waiting."""

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from accounting.views import MODEL_HOURS
from models import SUMS
from tests.databases import database_of, execute
from tests.servers import DEPLOYED, Server, fetch

HOURS, MODELS = 300, 1000
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {most} - 1)"


@pytest.fixture
def busy_proxy(tmp_path):
    """One with 300,000 sums of usage."""
    data_dir = tmp_path / "data"
    url = database_of(data_dir)
    last = int(time.time()) // 3600
    execute(
        url,
        "INSERT INTO usage_keys (id, view, node_id, project_id, token_id, model, endpoint, refusal) "
        f"{NUMBERS.format(most=MODELS)} SELECT i + 1, {MODEL_HOURS.id}, 'node', '', '', 'model ' || i, '', '' FROM n",
    )
    execute(
        url,
        f"INSERT INTO usage_sums (view, hour, key_id, {', '.join(SUMS)}) {NUMBERS.format(most=HOURS * MODELS)} "
        f"SELECT {MODEL_HOURS.id}, {last} - i / {MODELS}, i % {MODELS} + 1, {', '.join('1' for _ in SUMS)} FROM n",
    )
    with Server(DEPLOYED, data_dir) as server:
        yield server


@pytest.mark.sqlite
def test_others_are_answered_while_usage_is_added_up(busy_proxy):
    since = (datetime.now(UTC) - timedelta(hours=HOURS)).strftime("%Y-%m-%dT%H:%M:%SZ")
    answers = []
    asking = threading.Thread(
        target=lambda: answers.append(busy_proxy.manage("GET", f"/usage?group_by=model&from={since}")), daemon=True
    )
    answered = 0
    asking.start()
    while asking.is_alive():
        answered += fetch(busy_proxy.url, "GET", "/healthz")[0] == 200

    [(status, usage)] = answers
    assert (status, usage["total"]["requests"]) == (200, HOURS * MODELS)
    assert answered > 10
