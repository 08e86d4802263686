"""What the figures should be at most."""

from __future__ import annotations

from dataclasses import dataclass

from measure.suite.measurements import COUNTS, Figures


@dataclass(frozen=True)
class Target:
    """One figure, what it must be and what it should reach: at most so much."""

    what: str
    figure: str
    must: float
    reach: float
    unit: str

    def verdict(self, figures: Figures) -> str:
        """Which of the two marks the figure meets."""
        if self.figure not in figures:
            return "not measured"
        value = figures[self.figure]
        return "reach" if value <= self.reach else "must" if value <= self.must else "falls short"


def _of_each_count(what: str, figure: str, must: float, reach: float) -> list[Target]:
    return [
        Target(f"CPU of an event {what}, {count} streams of 50/s", figure % count, must, reach, "x")
        for count in COUNTS
    ]


TARGETS = (
    *_of_each_count("beside Envoy", "event_%d_beside_envoy", 1.2, 1.0),
    *_of_each_count("beside nginx", "event_%d_beside_nginx", 2.0, 1.6),
    *_of_each_count("beside Envoy, both with TLS to the upstream", "tls_event_%d_beside_envoy", 1.3, 1.1),
    Target("events lost, 800 streams of 50/s, two workers", "streams_800_lost", 0, 0, ""),
    Target("added delay of such an event, p99", "streams_800_added_p99_ms", 30, 20, "ms"),
    Target("CPU of a JSON call beside a bare Flask view, same server", "json_beside_bare", 1.2, 1.0, "x"),
    Target("the same with rules and two meters, a body of 2 KB", "ruled_json_beside_bare", 1.8, 1.5, "x"),
    Target("added time to first byte, one client, p50", "first_byte_p50_ms", 1.0, 0.5, "ms"),
    Target("added time to first byte, one client, p99", "first_byte_p99_ms", 3, 1.5, "ms"),
    Target("share (PSS) of one of two workers, at rest", "memory_rest_share_mb", 45, 40, "MB"),
    Target("share (PSS) of one of two workers, 2,000 open streams each", "memory_streams_share_mb", 90, 75, "MB"),
    Target("start to first response, two workers", "start_s", 1.5, 1, "s"),
    Target("longest wait of /healthz for another's request or response", "longest_wait_ms", 50, 20, "ms"),
    Target("a claim with 100,000 tokens all in use, beside ten", "claim_growth_all_in_use", 1.5, 1.2, "x"),
    Target("the slowest admin page, 1,000,000 records, 10,000 tokens", "slowest_page_ms", 150, 100, "ms"),
)
