"""Why a change is not made: what only the database knew when it was asked."""

from __future__ import annotations


class NotFound(Exception):
    """No such row; `field` is what named it."""

    def __init__(self, field: str, what: str) -> None:
        self.field = field
        super().__init__(f"There is no {what} with this {field}.")


class Conflict(Exception):
    """The change would break a rule that other rows hold; `field` is what to change."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


class KeyNeeded(Exception):
    """The upstream key is for another upstream than the change names."""

    field = "openai_api_key"

    def __init__(self) -> None:
        super().__init__(
            "base_url leads to another host, which must not get the present key: send that host's as well."
        )


class Stale(Conflict):
    """The row is not what the caller saw any more."""

    def __init__(self) -> None:
        super().__init__("seen", "Somebody changed this meanwhile. Look at the current values, and save again.")
