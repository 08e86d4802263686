"""When a request that found its kept connection dead may be sent once more, and when it may not."""

from __future__ import annotations

# RFC 9110 section 9.2.2: sent twice they have the effect of once.
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


def may_send_again(method: str, *, ended_cleanly: bool, sent: int, unacknowledged: int) -> bool:
    """
    Whether a request may be sent once more, whose kept connection ended before any byte of an answer.

    A POST may only when it cannot have reached the upstream. The kernel knows: the end of the other side (FIN)
    says what that side had received until then, and if that was nothing of the request, nobody there read it.
    A reset proves nothing: it may come from an upstream that read the request and then died, and its
    acknowledgement of what it read is lost.

    Args:
        method: Of the request.
        ended_cleanly: The upstream closed its side; False when it reset the connection.
        sent: Bytes of the request that were handed to the kernel; none at all may always be sent again.
        unacknowledged: Bytes that the upstream's machine has not confirmed, as `connection.unacknowledged` says.
    """
    return not sent or method in IDEMPOTENT or (ended_cleanly and unacknowledged >= sent)
