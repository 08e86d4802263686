"""Dead letters stay below their bound, the latest ones kept."""

import json

from llmproxy.api_log.dead_letters import DeadLetters
from llmproxy.api_log.sink import Rejection
from tests.records import read, record


def add(letters: DeadLetters) -> str:
    call = record()
    letters.add([Rejection(read(call), "400 no")], sink="http", now_s=0.0)
    return call["request_id"]


def kept(letters: DeadLetters) -> list[str]:
    files = [path for path in (letters.older_path, letters.path) if path.exists()]
    lines = [line for path in files for line in path.read_bytes().splitlines()]
    return [json.loads(line)["record"]["request_id"] for line in lines]


def test_the_latest_are_kept_below_the_bound_and_a_warning_says_what_went(tmp_path, caplog):
    letters = DeadLetters(tmp_path / "dead_letters.jsonl", max_bytes=8000)
    ids = [add(letters) for _ in range(30)]

    found = kept(letters)
    assert 4 < len(found) < 12 and found == ids[-len(found) :]
    assert letters.path.stat().st_size + letters.older_path.stat().st_size <= 8000
    assert letters.count() == len(found)
    assert "bytes of older dead letters are deleted" in caplog.text


def test_one_that_is_longer_than_the_bound_is_kept_all_the_same(tmp_path):
    letters = DeadLetters(tmp_path / "dead_letters.jsonl", max_bytes=100)
    ids = [add(letters) for _ in range(3)]

    assert kept(letters) == ids[-2:]
