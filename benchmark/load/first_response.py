"""What the first response of a run says about going on: a server that is not there, or does not take the token."""

from __future__ import annotations

from benchmark.load.samples import Sample
from benchmark.target import Target

REFUSED_TOKEN = (401, 403)


def refusal(target: Target, sample: Sample, *, was_connected: bool) -> str | None:
    """
    Why there is no use in going on after `sample`, the first that ended; None when there is.

    Args:
        was_connected: Whether there was a connection. A server that is there and falls silent is measured: the
            time-out may be what somebody wants to count.
    """
    if sample.status in REFUSED_TOKEN:
        said = f"{sample.cause}: {sample.message}" if sample.message else str(sample.cause)
        token = "does not take the token" if target.bearers else "wants a token (--token)"
        return f"{target.base_url} {token}: {target.without_bearers(said)}"
    if sample.status or (sample.cause == "timeout" and was_connected):
        return None
    return f"{target.base_url} cannot be reached: {sample.cause}"
