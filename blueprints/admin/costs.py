"""What calls cost, and which of them had no price: what several pages show of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from flask import current_app

from accounting.report import Filters, Usage, totals, unpriced_models
from llmproxy.admission import utc_now
from llmproxy.limits.price_words import why_unpriced
from models import db
from services import Services

MONTH = timedelta(days=30)
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


def unpriced(filters: Filters, length: timedelta) -> list[Unpriced]:
    """The models with the most calls without a price, from so long ago until now; none where no prices are kept."""
    prices, now = Services.of(current_app).prices, utc_now()
    if prices is None:
        return []
    found = unpriced_models(db.session, filters, now - length, now, limit=_MOST_MODELS)
    return [Unpriced(model, calls, why_unpriced(prices, model)) for model, calls in found.items()]


def last_month(filters: Filters) -> Usage:
    """The usage of the last 30 days."""
    now = utc_now()
    return totals(db.session, filters, now - MONTH, now)
