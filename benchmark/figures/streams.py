"""The figures of streams, event by event."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from benchmark.figures.percentiles import Figures, spread
from benchmark.load.samples import Sample


def stream_figures(good: Sequence[Sample], pace: float | None) -> Figures:
    """Of the streams that succeeded. `pace` is in events per second, None where none is asked for."""
    streams = [(sample, sample.stream) for sample in good if sample.stream is not None]
    first = ((times.first_ns - sample.due_ns) / 1e6 for sample, times in streams if times.first_ns is not None)
    numbered = [times.lost for _, times in streams if times.lost is not None]
    found = {
        "events": sum(times.events for _, times in streams),
        **spread("first_event", first),
        **spread("event_gap", chain.from_iterable(times.gaps_ms for _, times in streams)),
        **spread("event_delay", chain.from_iterable(times.delays_ms for _, times in streams)),
        "events_lost": sum(numbered) if numbered else None,
        "streams_at_once": _most_at_once([sample for sample, _ in streams]),
    }
    if pace is not None:
        sustained = sum(times.kept_pace(pace) for _, times in streams)
        found |= {"pace_events_per_s": pace, "streams_sustained": sustained}
    return found


def _most_at_once(samples: list[Sample]) -> int:
    """How many were open at the same moment, at the most."""
    steps = sorted(chain.from_iterable(((s.sent_ns, 1), (s.ended_ns, -1)) for s in samples))
    most = current = 0
    for _, step in steps:
        current += step
        most = max(most, current)
    return most
