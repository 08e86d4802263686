"""Events are counted at any split."""

import pytest

from llmproxy.observe.seen import SeenEvents

STREAM = b"event: a\ndata: {}\n\ndata: [DONE]\n\n: d\ndata:x\n\n"


@pytest.mark.parametrize("size", range(1, len(STREAM) + 1))
def test_events_are_counted_however_they_are_cut(size):
    seen = SeenEvents()

    for at in range(0, len(STREAM), size):
        seen.feed(STREAM[at : at + size])

    assert seen.count == 3


def test_a_mark_that_never_ends_is_none():
    seen = SeenEvents()

    for piece in (b"da", b"dat", b"a", b":", b"data"):
        seen.feed(piece)

    assert seen.count == 1
