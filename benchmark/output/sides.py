"""Figures of one target or of two, at one level of load or several: which is which, and how they are called."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.figures.percentiles import Figures
from benchmark.output.spoken import spoken_count, spoken_ms

MOST_WARNINGS = 2


def levels_of(figures: Figures) -> list[Figures]:
    """Every level that was measured."""
    levels: list[Figures] = figures.get("sweep", [figures])
    return levels


def sides_of(figures: Figures) -> list[Figures]:
    """The figures of the first target, and of the second where there is one."""
    return [figures, figures["compare"]] if "compare" in figures else [figures]


def name_of(side: Figures) -> str:
    """Its server, and the file where it was saved."""
    return f"{side['base_url']} ({side['saved']})" if "saved" in side else str(side["base_url"])


def level_number(side: Figures) -> str:
    """What of the load was varied, as a number: of users, or requests per second."""
    return f"{spoken_count(side['rate_rps'])}/s" if "rate_rps" in side else f"{side['concurrency']:,}"


def level_of(side: Figures) -> str:
    """What of the load was varied: `8 users` or `20/s`."""
    return level_number(side) if "rate_rps" in side else spoken_users(side["concurrency"])


def place_of(level: Figures, side: Figures, levels: Sequence[Figures]) -> str:
    """Which server and which level, where there is more than one: `http://localhost:8080, 8 users`."""
    found = [name_of(side)] if len(sides_of(level)) > 1 else []
    return ", ".join(found + ([level_of(level)] if len(levels) > 1 else []))


def warnings_of(levels: Sequence[Figures]) -> list[str]:
    """What may be wrong with the figures. Many that say the same are one."""
    every = [(level, side) for level in levels for side in sides_of(level) if side["client_warning"]]
    places = [place_of(level, side, levels) for level, side in every]
    said = [side["client_warning"] for _, side in every]
    if len(said) > MOST_WARNINGS:
        return [
            f"{said[-1]} ({places[-1]}; something of the kind at {len(said) - 1} others: {'; '.join(places[:-1])})"
        ]
    return [f"{text} ({place})" if place else text for text, place in zip(said, places, strict=True)]


def spoken_users(count: int) -> str:
    """`1 user`, `2 users`."""
    return f"{count:,} user" if count == 1 else f"{count:,} users"


def spoken_limits(side: Figures) -> str:
    """The limits of its goodput: `500 ms to the first token and 40 ms per token`."""
    named = (("ttft_limit_ms", "to the first token"), ("tpot_limit_ms", "per token"))
    return " and ".join(f"{spoken_ms(side[key])} {of}" for key, of in named if side.get(key) is not None)


def spoken_time(name: str) -> str:
    """A time that is compared, by the name it has in the JSON: `mean`, `p50`, `first token p50`."""
    for key, words in (("ttft", "first token "), ("tpot", "per output token ")):
        if name.startswith(key):
            return words + name.split("_")[1]
    return name.partition("_")[0].replace("average", "mean")


def sweep_cells(side: Figures) -> dict[str, str]:
    """What a line of a sweep tells, by the title of its column; `-` is unknown."""
    return {
        "users": f"{side['concurrency']:,}" if "rate_rps" not in side else "-",
        "rate/s": spoken_count(side.get("rate_rps")),
        "req/s": spoken_count(side["throughput_rps"]),
        "errors": f"{side['errors']:,}",
        "p50 ms": spoken_count(side["p50_latency_ms"]),
        "p99 ms": spoken_count(side["p99_latency_ms"]),
        "TTFT p50": spoken_count(side.get("ttft_p50_ms")),
        "TTFT p99": spoken_count(side.get("ttft_p99_ms")),
        "TPOT p50": spoken_count(side.get("tpot_p50_ms")),
        "tok/s": spoken_count(side.get("output_tokens_per_s")),
        "goodput": "-" if side.get("goodput") is None else f"{side['goodput']:.1%}",
    }
