"""The line that lives in a terminal while the load runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import gevent
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from benchmark.figures.percentiles import percentile
from benchmark.load.samples import Sample
from benchmark.output.spoken import spoken_ms

REDRAWS_PER_S = 8
# The live percentiles are those of the latest responses.
LATEST = 1000


@contextmanager
def progress(
    console: Console, samples: list[Sample], *, requests: int | None, seconds: float | None
) -> Iterator[None]:
    """Keeps a line up to date from the growing `samples`; on a terminal only."""
    if not console.is_terminal:
        yield
        return
    began = time.monotonic()

    def draw() -> Table:
        elapsed = time.monotonic() - began
        done = len(samples) / requests if requests else elapsed / (seconds or 1)
        return _line(samples, min(done, 1.0), elapsed, f"{len(samples):,}" + (f"/{requests:,}" if requests else ""))

    with Live(draw(), console=console, auto_refresh=False, transient=True) as live:

        def redraw() -> None:
            while True:
                gevent.sleep(1 / REDRAWS_PER_S)
                live.update(draw(), refresh=True)

        drawing = gevent.spawn(redraw)
        try:
            yield
        finally:
            drawing.kill()


def _line(samples: list[Sample], done: float, elapsed: float, count: str) -> Table:
    latest = samples[-LATEST:]
    latencies = sorted(sample.latency_ms for sample in latest if sample.cause is None)
    errors = sum(sample.cause is not None for sample in latest)
    line = Table.grid(padding=(0, 2))
    line.add_row(
        ProgressBar(total=1.0, completed=done, width=24),
        Text(count),
        Text(f"{len(samples) / elapsed if elapsed else 0:,.0f} req/s"),
        Text(f"p50 {spoken_ms(percentile(latencies, 50))}"),
        Text(f"p99 {spoken_ms(percentile(latencies, 99))}"),
        Text(f"{errors:,} of the last {len(latest):,} failed", style="red") if errors else Text(""),
    )
    return line
