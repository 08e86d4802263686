"""
What a route for operators or holders takes and answers, said once: that checks its input, and makes its description.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

from marshmallow import Schema

from blueprints.wire import read_body, read_query

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Operation:
    """
    A route's contract.

    Args:
        body: What checks the JSON body; None where none is read.
        query: What checks the query; None where none is read.
        status: Of the answer when all is well.
        answer: The shape of its JSON; None where it has no body.
        also: Other types of content that it may have.
        refuses: The statuses of its refusals, beside those that every operation has.
        security: Whose bearer it wants; the description's name for it.
    """

    body: type[Schema] | None = None
    query: type[Schema] | None = None
    status: int = 200
    answer: type[Schema] | None = None
    also: tuple[str, ...] = ()
    refuses: tuple[int, ...] = ()
    security: str = "managementToken"

    def __call__(self, view: Callable[..., Answer]) -> Callable[..., Answer]:
        """The view, which is handed `body` and `query` as they were checked. Raises what reading them raises."""

        @wraps(view)
        def run(**path: str) -> Answer:
            if self.body:
                path["body"] = read_body(self.body())  # type: ignore[assignment]
            if self.query:
                path["query"] = read_query(self.query())  # type: ignore[assignment]
            return view(**path)

        run.operation = self  # type: ignore[attr-defined]
        return run


def operation_of(view: Any) -> Operation | None:
    """The contract of a view; None where it has none."""
    return getattr(view, "operation", None)
