"""`flask prices …`: what a model costs, and which models in use cost nobody knows what."""

from __future__ import annotations

from datetime import timedelta

import click
from flask import current_app
from flask.cli import AppGroup

from accounting.report import EVERYBODY, unpriced_models
from control import projects
from llmproxy.admission import utc_now
from llmproxy.limits.price_words import describe, how_to_price, why_unpriced
from llmproxy.limits.prices import Prices
from models import db
from services import Services

_DAYS = 30
_MOST_MODELS = 1000

price_commands = AppGroup("prices", help="What calls cost.")


@price_commands.command("show")
@click.argument("model")
@click.option("--project", metavar="NAME", help="With the prices that this project has of its own.")
def show(model: str, project: str | None) -> None:
    """Tell what MODEL costs, from the sheet and PRICES_FILE."""
    row = _prices().find(model, project)
    if row is None:
        raise click.ClickException(f"{model} has no price. {how_to_price(model)}")
    click.echo(describe(row))


@price_commands.command("check")
def check() -> None:
    """Name the models of the last 30 days whose calls had no price; ends with 1 where one still has none."""
    prices, now = _prices(), utc_now()
    found = unpriced_models(db.session, EVERYBODY, now - timedelta(days=_DAYS), now, limit=_MOST_MODELS)
    for model, calls in found.items():
        calls_of = f"{model or 'no model named'}: {calls} call{'' if calls == 1 else 's'} without a price"
        click.echo(f"{calls_of}. {why_unpriced(prices, model)}")
    for name in sorted(prices.projects - projects.names(db.session, prices.projects)):
        click.echo(f'PRICES_FILE has prices for a project "{name}", but there is none of this name')
    missing = sum(bool(model) and prices.find(model) is None for model in found)
    if missing:
        raise click.ClickException(f"{missing} model{' has' if missing == 1 else 's have'} no price")
    if not found:
        click.echo(f"every call of the last {_DAYS} days has a price; the sheet is of {prices.date}")


def _prices() -> Prices:
    prices = Services.of(current_app).prices
    if prices is None:
        raise click.ClickException("PRICES_FILE is none: no prices are kept")
    return prices
