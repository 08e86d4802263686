"""What a run is held against, and which requests keep it."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.load.samples import Sample


@dataclass(frozen=True)
class Goals:
    """
    None is no goal.

    Attributes:
        pace: Events per second of a stream.
        ttft_ms: The longest time to the first token.
        tpot_ms: The longest time per output token after it.
    """

    pace: float | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None

    @property
    def has_limits(self) -> bool:
        """Whether there is a goodput to tell."""
        return self.ttft_ms is not None or self.tpot_ms is not None

    def kept_by(self, sample: Sample) -> bool:
        """Whether it is a response within the limits. One of a single token has no time per token, and keeps any."""
        return (
            sample.cause is None
            and (self.ttft_ms is None or (sample.ttft_ms is not None and sample.ttft_ms <= self.ttft_ms))
            and (self.tpot_ms is None or (tells_output(sample) and (sample.tpot_ms or 0.0) <= self.tpot_ms))
        )


def tells_output(sample: Sample) -> bool:
    """Whether it is known how many tokens the response has."""
    return sample.tokens is not None and sample.tokens.output is not None
