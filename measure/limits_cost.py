"""
What rules and budgets cost a call before its claim, in CPU µs: the reading of its body, its judgement, its bounds.

    python -m measure.limits_cost
"""

from __future__ import annotations

import json
import time
import timeit
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import orjson

from llmproxy.limits.body.held import read_held
from llmproxy.limits.body.scanner import PIECE, scan
from llmproxy.limits.bounds import bounds
from llmproxy.limits.judge import check_head, check_models, check_parameters, models_of, require_metered
from llmproxy.limits.meters import Meter, claimed, shortage
from llmproxy.limits.periods import period_ends
from llmproxy.limits.prices import Prices, read_sheet
from llmproxy.limits.routes import find_route
from llmproxy.limits.rules import in_force
from llmproxy.limits.rules_json import read_rules

SHEET = Path(__file__).parent.parent / "prices" / "openai.json"
RULES = {
    "models": ["gpt-5", "gpt-4o-mini", "text-embedding-3-*"],
    "addresses": ["10.0.0.0/8", "2001:db8::/32"],
    "limits": {"max_output_tokens": 4096, "tools": ["function"], "n": 1, "background": False},
}
SIZES = (2_000, 20_000, 200_000)


def main() -> None:
    """Print the numbers."""
    print(f"{'':34}" + "".join(f"{size // 1000:>8} KB" for size in SIZES))
    bodies = [_chat(size) for size in SIZES]
    readers: dict[str, Callable[[bytes], object]] = {
        "orjson alone": orjson.loads,
        "a body read for rules": partial(read_held, counts_parts=False),
        "a body read for a budget": read_held,
        "the same in pieces": _scan,
    }
    for name, read in readers.items():
        _row(name, [partial(read, body) for body in bodies])
    _rest(bodies[0])


def _rest(body: bytes) -> None:
    rules = in_force([read_rules(RULES)], has_meter=True).enforced
    reading, path = read_held(body), "/v1/chat/completions"
    route, row = find_route("POST", path), Prices(read_sheet(SHEET.read_text())).find("gpt-4o-mini")
    assert route is not None
    figures = bounds(route, reading, row)
    meter = Meter("", "", "usd", None, "day", "Europe/Amsterdam", "likely", 10**6)
    call = claimed(meter, bound=figures.cost, estimate=figures.likely_cost)
    now_us = time.time_ns() // 1000
    _row("route", [lambda: find_route("POST", path)])
    _row("head", [lambda: check_head(rules, route, address="10.1.2.3", size=2000)])
    _row("models", [lambda: check_models(rules, route, models_of(route, path, "", reading))])
    _row("parameters", [lambda: check_parameters(rules, route, reading, default_tier=None)])
    _row("metered", [lambda: require_metered(route, reading)])
    _row("bounds", [lambda: bounds(route, reading, row)])
    _row("a meter, asked in Python", [lambda: shortage(meter, call)])
    _row("the end of its day", [lambda: period_ends("day", "Europe/Amsterdam", now_us)])


def _row(name: str, works: Sequence[Callable[[], object]]) -> None:
    print(f"{name:34}" + "".join(f"{_us(work):>11.2f}" for work in works))


def _us(work: Callable[[], object]) -> float:
    timer = timeit.Timer(work, timer=time.process_time)
    number = max(timer.autorange()[0] // 5, 1)
    return min(timer.repeat(5, number)) / number * 1e6


def _chat(size: int) -> bytes:
    message = {"role": "user", "content": "Hello there, what is it about? " * 6}
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    messages = [message] * (size // 230)
    return json.dumps({"model": "gpt-4o-mini", "messages": messages, "max_tokens": 400, "tools": [tool]}).encode()


def _scan(body: bytes) -> object:
    return scan(body[at : at + PIECE] for at in range(0, len(body), PIECE))


if __name__ == "__main__":
    main()
