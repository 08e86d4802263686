"""
What a claim costs with many tokens in the database instead of ten: CPU µs and ratios, as JSON.

    python -m measure.claim_growth [--tokens 100000]

A SQLite database each, the rounds in turn. Of the many tokens either ten are in use, or all, which is the worst case:
then no claim finds its page where the last one left it. Between two rounds SQLite's log is moved into the database,
as the background work does once a second.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from database.claims import open_token_store
from database.engine import checkpoint
from llmproxy.admission import TokenStore, utc_now
from measure.issued_tokens import issue_tokens

FEW = 10
CLAIMS = 4000
ROUNDS = 7


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tokens", type=int, default=100_000)
    many = options.parse_args().tokens
    with tempfile.TemporaryDirectory() as few_dir, tempfile.TemporaryDirectory() as many_dir:
        few, all_of_many = _filled(Path(few_dir), FEW), _filled(Path(many_dir), many)
        ten_of_many = all_of_many._replace(hashes=all_of_many.hashes[:: many // FEW])
        rounds = [[_claim_us(side) for side in (few, ten_of_many, all_of_many)] for _ in range(ROUNDS + 1)][1:]
    medians = [statistics.median(side) for side in zip(*rounds, strict=True)]
    ratios = [statistics.median(measured[side] / measured[0] for measured in rounds) for side in (1, 2)]
    told = {"us": medians, "ratio": ratios[0], "ratio_all_in_use": ratios[1]}
    print(json.dumps(told))


class _Side(NamedTuple):
    database_url: str
    store: TokenStore
    hashes: list[str]


def _filled(data_dir: Path, tokens: int) -> _Side:
    url = f"sqlite:///{data_dir}/claims.db"
    hashes = issue_tokens(url, data_dir, tokens)
    return _Side(url, open_token_store(url, default_limit=1_000_000_000), hashes)


def _claim_us(side: _Side) -> float:
    checkpoint(side.database_url)
    chosen = random.choices(side.hashes, k=CLAIMS)
    now, started = utc_now(), time.process_time()
    for token_hash in chosen:
        if side.store.claim(token_hash, now) is None:
            raise RuntimeError("a good token was refused")
    return (time.process_time() - started) / CLAIMS * 1e6


if __name__ == "__main__":
    main()
