"""
How often each holder has asked for its own view within a minute, over all processes of a node. Knows nothing of HTTP.

As with failed sign-ins it is counted in memory that they share: who asks too often costs the database nothing more.
"""

from __future__ import annotations

from struct import Struct

from control.sign_ins import PER_BUCKET, SharedMemory, bucket_of

# Holders are kept in buckets, each with room for so many: 4096 in all.
_BUCKETS = 512
# Who it is, the minute in which it asked last, and how often within that.
_HOLDER = Struct("16s I I")
_SIZE = _HOLDER.size * _BUCKETS * PER_BUCKET

_shared: SharedMemory | None = None


def share() -> None:
    """Let this process and all that it forks count together."""
    global _shared  # noqa: PLW0603
    _shared = SharedMemory(_SIZE)


class Asked:
    """The counts of this process and of all that share its memory."""

    def __init__(self) -> None:
        self._memory = _shared or SharedMemory(_SIZE)

    def count(self, who: str, minute: int) -> int:
        """
        Count one more; how many that are of `who` within the minute, a number since 1970 UTC.

        Raises TooManyFailures when the memory's lock cannot be had.
        """
        key = self._memory.key_of(who)
        with self._memory.locked():
            at, asked = self._find(key, minute)
            _HOLDER.pack_into(self._memory.bytes, at, key, minute, asked + 1)
        return asked + 1

    def _find(self, key: bytes, minute: int) -> tuple[int, int]:
        """A holder's place and count; where there is none, the place of whoever is missed least."""
        places = bucket_of(key, _HOLDER.size, buckets=_BUCKETS)
        kept = [(at, *_HOLDER.unpack_from(self._memory.bytes, at)) for at in places]
        for at, its_key, its_minute, count in kept:
            if its_key == key:
                return at, count if its_minute == minute else 0
        at, *_ = min(kept, key=lambda place: (place[2] == minute, place[3]))
        return at, 0
