"""
Where shipped records go: the seam between the shipper and its receivers, and the two ways a delivery can fail.

A sink translates its library's errors into these two; the shipper knows nothing of HTTP or AWS.

    SinkUnavailable   the receiver cannot take anything now, or our settings are wrong: the same records again later
    BatchRefused      a record in the batch will never be taken: find it and set it aside
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from llmproxy.api_log.read_record import ReadRecord


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that the receiver will never take, and why."""

    record: ReadRecord
    reason: str


class SinkUnavailable(Exception):
    """
    Nothing was taken, or not all; the same batch may pass later. The message holds no secret.

    Attributes:
        retry_after_s: Seconds the receiver asked to be left alone. None when it did not say.
    """

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class BatchRefused(Exception):
    """The receiver will never take this batch as it is: too large, or with a record that it cannot read."""


class Sink(Protocol):
    """One receiver. `name` is safe to log."""

    @property
    def name(self) -> str: ...

    def deliver(self, records: Sequence[ReadRecord]) -> list[Rejection]:
        """
        Hands over a batch; the records of it that the receiver will never take.

        Raises:
            SinkUnavailable: Try again later. Some records may have arrived all the same.
            BatchRefused: Nothing was taken; smaller batches may be.
        """
        ...

    def close(self) -> None: ...
