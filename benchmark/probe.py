"""One request before the load: a server that is not there, or does not take the token, is refused at once."""

from __future__ import annotations

from dataclasses import replace

from benchmark.plan import Call, Plan, Refused, Target
from benchmark.runner import Load

PROBE_TIMEOUT_S = 10.0
REFUSED_TOKEN = (401, 403)


def probe(target: Target, call: Call) -> None:
    """
    Asks the endpoint with an empty object: no model works for that, and nobody is billed.

    Only a server that does not answer, or that answers 401 or 403, raises Refused; any other status will do.
    """
    asked = replace(call, body=b"{}", stream=False, timeout_s=min(call.timeout_s, PROBE_TIMEOUT_S))
    run = Load(target, asked, 1).run(Plan(requests=1, duration_s=None, concurrency=1))
    if not run.samples:
        raise Refused("interrupted")
    [sample] = run.samples
    if not sample.status:
        raise Refused(f"{target.base_url} cannot be reached: {sample.cause}")
    if sample.status in REFUSED_TOKEN:
        said = f": {sample.message}" if sample.message else ""
        token = "does not take the token" if target.token else "wants a token (--token)"
        raise Refused(target.without_token(f"{target.base_url} {token}: {sample.cause}{said}"))
