"""
The call log's part in reservations: whoever reads a record charges what its call cost, where nobody did, and deletes
the reservation. So a record on the disk is enough, whatever became of the worker that wrote it.
"""

from __future__ import annotations

from collections.abc import Iterable

from llmproxy.api_log.read_record import ReadRecord
from llmproxy.limits.reservations import NOTHING, Charge, ReservationStore, Settlement
from llmproxy.limits.usage import tells_all, usage_of


def pass_records(store: ReservationStore, records: Iterable[ReadRecord]) -> int:
    """
    End the reservations of calls whose records these are; how many their workers had not. Done again, it changes
    nothing.

    Raises StoreUnavailable; the records must be passed again then.
    """
    # Where no token has a budget there is none. What a record may end is older than the record.
    if not store.any_reserved():
        return 0
    # A call that was refused holds nothing, and a line of several is one of those.
    by_id = {record.request_id: record for record in records if record.token_id is not None}
    # Nearly all of them at once; what is left was not settled by its worker, or is being settled at this moment.
    store.drop_settled(list(by_id))
    found = store.reserved_among(list(by_id))
    for request_id in found:
        store.settle(Settlement(request_id, charge_of(by_id[request_id]), None))
    return len(found)


def charge_of(record: ReadRecord) -> Charge:
    """What a record says that its call cost; None for what it does not say."""
    source = record.cost_source
    if source in ("none", "stored"):
        return NOTHING
    return Charge(0 if source == "unpriced" else record.cost, _tokens(record))


def _tokens(record: ReadRecord) -> int | None:
    metadata = record.fields.get("metadata")
    if not isinstance(metadata, dict) or not tells_all(metadata, record.usage_source):
        return None
    usage = usage_of(metadata)
    return usage.input + usage.output
