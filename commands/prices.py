"""`flask prices …`: what a model costs, and which models in use cost nobody knows what."""

from __future__ import annotations

import click
from flask import current_app
from flask.cli import AppGroup

from llmproxy.limits.price_words import describe, how_to_price
from llmproxy.limits.prices import Prices
from services import Services

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


def _prices() -> Prices:
    prices = Services.of(current_app).prices
    if prices is None:
        raise click.ClickException("PRICES_FILE is none: no prices are kept")
    return prices
