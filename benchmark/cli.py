"""
The command `llm-benchmark`: what is refused, and in which order things happen.

Status 0: it ran. 1: every request failed, or a limit of --fail-if is broken. 2: refused, nothing was written.
130, 143: ended by a signal, with the summary so far.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console

from benchmark.bodies import Variety, bodies_of, payload_of
from benchmark.call import Call, check_endpoint, read_header
from benchmark.figures import fail_if
from benchmark.figures.goals import Goals
from benchmark.figures.saved import read_saved
from benchmark.options import Asked, Command, is_typed
from benchmark.output.files import Files
from benchmark.plan import Plan, allow_connections, make_levels
from benchmark.prompts import parse_length, read_prompts
from benchmark.refused import Refused, check_positive
from benchmark.session import Session
from benchmark.setup import setup
from benchmark.target import Target, read_tokens

FAILED, ENDED_BY_SIGNAL = 1, 128


def main(**given: Any) -> None:
    """Measure latency, throughput and errors of an OpenAI endpoint, through the proxy or without it."""
    asked = Asked(**given)
    session = _prepare(asked)
    limits = [fail_if.parse(text) for text in asked.limits]
    files = Files(output=asked.output, html=asked.html, csv=asked.csv)
    files.check()
    session.measure(Console(stderr=True))
    files.write(session)
    sys.exit(_status(session, limits))


command = Command("llm-benchmark", callback=main, help=main.__doc__)


def _prepare(asked: Asked) -> Session:
    """Raises Refused for whatever cannot be done."""
    plans = make_levels(
        asked.sweep,
        requests=asked.requests,
        duration_s=asked.duration_s,
        concurrency=asked.concurrency,
        rate=asked.rate,
        warmup=asked.warmup,
        arrivals=asked.arrivals,
        seed=asked.seed,
    )
    allow_connections(max(plan.concurrency for plan in plans))
    call = _call(asked, plans)
    return Session(
        _targets(asked),
        call,
        plans,
        _goals(asked),
        setup=setup(click.get_current_context(), call.bodies),
        saved=read_saved(asked.compared_file) if asked.compared_file is not None else None,
    )


def _goals(asked: Asked) -> Goals:
    goals = {"pace": asked.pace, "ttft-limit": asked.ttft_limit_ms, "tpot-limit": asked.tpot_limit_ms}
    for name, value in goals.items():
        if value is not None and not asked.stream:
            raise Refused(f"--{name} is for --stream")
        if value is not None:
            check_positive(name, value)
    return Goals(*goals.values())


def _targets(asked: Asked) -> list[Target]:
    if asked.tokens2 and asked.compared_url is None and is_typed("tokens2"):
        raise Refused("--token2 is for --compare with a server")
    tokens = read_tokens(*asked.given_tokens())
    targets = [Target(asked.base_url, tokens)]
    if asked.compared_url is not None:
        targets.append(Target(asked.compared_url, asked.tokens2 or tokens))
    for target in targets:
        check_endpoint(asked.endpoint, target.base_url)
    return targets


def _call(asked: Asked, plans: Sequence[Plan]) -> Call:
    check_positive("timeout", asked.timeout_s)
    payload = payload_of(asked.payload, asked.endpoint, asked.method)
    return Call(
        endpoint=asked.endpoint,
        bodies=bodies_of(payload, asked.endpoint, stream=asked.stream, variety=_variety(asked, plans)),
        method=asked.method,
        stream=asked.stream,
        headers=tuple(map(read_header, asked.headers)),
        timeout_s=asked.timeout_s,
    )


def _variety(asked: Asked, plans: Sequence[Plan]) -> Variety:
    if asked.prompts is not None and asked.input_tokens is not None:
        raise Refused("--prompts and --input-tokens contradict each other: give one of them")
    return Variety(
        prompts=read_prompts(asked.prompts) if asked.prompts is not None else (),
        asked=parse_length(asked.input_tokens, "--input-tokens") if asked.input_tokens is not None else None,
        answered=parse_length(asked.output_tokens, "--output-tokens") if asked.output_tokens is not None else None,
        seed=asked.seed,
        needed=None if asked.duration_s is not None else sum(plan.requests or 0 for plan in plans) + asked.warmup,
    )


def _status(session: Session, limits: list[fail_if.Limit]) -> int:
    complaints = [f"every request to {url} failed" for url in session.failed_urls]
    complaints += [f"failed by {said}" for limit in limits if (said := limit.broken_by(session.figures))]
    for complaint in complaints:
        print(f"llm-benchmark: {complaint}", file=sys.stderr)
    if session.ended_by is not None:
        return ENDED_BY_SIGNAL + session.ended_by
    return FAILED if complaints else 0
