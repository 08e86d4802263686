"""What calls used and cost, and which of them told no usage or had no price: what several pages show of it."""

from __future__ import annotations

from dataclasses import dataclass

from flask import current_app

from accounting.report import Filters, SilentStreams, silent_streams, unpriced_models
from blueprints.admin.spans import MONTH, Span
from llmproxy.admission import utc_now
from llmproxy.limits.price_words import why_unpriced
from models import db
from services import Services

_MOST_MODELS = 10


@dataclass(frozen=True, slots=True)
class Unpriced:
    """A model ('' where nobody named it) whose calls had no price: how many they are, and what to do about it."""

    model: str
    calls: int
    advice: str


def price_date() -> str | None:
    """The day of the price sheet; None where no prices are kept."""
    prices = Services.of(current_app).prices
    return prices.date if prices else None


def unpriced(filters: Filters, span: Span) -> list[Unpriced]:
    """The models with the most calls without a price, in the span until now; none where no prices are kept."""
    prices = Services.of(current_app).prices
    if prices is None:
        return []
    found = unpriced_models(db.session, filters, *span.around(utc_now()), limit=_MOST_MODELS)
    return [Unpriced(model, calls, why_unpriced(prices, model)) for model, calls in found.items()]


def silent_last_month(project_id: str) -> SilentStreams | None:
    """How many of a project's streams told no usage in the last 30 days; None where all did, or it asks for it."""
    found = silent_streams(db.session, Filters(project_id=project_id), *MONTH.around(utc_now()))
    return found[0] if found else None
