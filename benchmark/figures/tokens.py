"""The figures that count tokens: how many, how fast, and which share of the requests was fast enough."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.figures.goals import Goals, tells_output
from benchmark.figures.percentiles import Figures, mean, spread
from benchmark.load.samples import Run, Sample


def token_figures(run: Run, good: Sequence[Sample]) -> Figures:
    """Of the requests that succeeded, from the `usage` that the server told."""
    told = [sample.tokens for sample in good if sample.tokens is not None]
    taken = [tokens.input for tokens in told if tokens.input is not None]
    made = [tokens.output for tokens in told if tokens.output is not None]
    return {
        "requests_with_usage": len(told),
        "input_tokens": sum(taken) if taken else None,
        "output_tokens": sum(made) if made else None,
        "output_tokens_per_s": round(sum(made) / run.duration_s, 2) if made and run.duration_s else None,
        "input_tokens_per_request": mean(taken),
        **spread("input_tokens", taken, unit=""),
        "output_tokens_per_request": mean(made),
        **spread("output_tokens", made, unit=""),
    }


def speed_figures(good: Sequence[Sample]) -> Figures:
    """Of streams: the time to the first token, and per token after it."""
    ttft, tpot = (sample.ttft_ms for sample in good), (sample.tpot_ms for sample in good)
    return spread("ttft", ttft) | spread("tpot", tpot)


def goodput_figures(run: Run, goals: Goals) -> Figures:
    """
    The share of all requests that kept the limits, and how many did in a second.

    Null where a limit is on a time per token and no response told its tokens.
    """
    if not goals.has_limits:
        return {}
    kept = sum(map(goals.kept_by, run.samples))
    is_known = bool(run.samples) and (goals.tpot_ms is None or any(map(tells_output, run.samples)))
    return {
        "ttft_limit_ms": goals.ttft_ms,
        "tpot_limit_ms": goals.tpot_ms,
        "goodput": round(kept / len(run.samples), 6) if is_known else None,
        "goodput_rps": round(kept / run.duration_s, 2) if is_known and run.duration_s else None,
    }
