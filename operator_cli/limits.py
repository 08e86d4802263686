"""`llm-proxy limits`: how much tokens and projects may be used, by requests an hour and by meters."""

from __future__ import annotations

from typing import Any

import click

from operator_cli.api import Api
from operator_cli.options import TOKEN, an_id, as_json, limited, segment
from operator_cli.output import show

PERIODS = ("minute", "hour", "day", "week", "month", "total")
LONGEST_NUMBER = 30  # digits; what the proxy takes has fewer
METER = (
    "id", "name", "token_id", "unit", "period", "zone", "amount", "spent", "reserved", "remaining", "resets_at",
)  # fmt: skip

of_project = click.option("--project", help="Of this project, and so of all its tokens together.")
of_token = click.option("--token", "token_id", help="Of the token with this public id.")


@click.group()
def limits() -> None:
    """How much tokens and projects may be used."""


@limits.command("set")
@an_id
@click.option("--rate-limit", type=click.IntRange(min=1), help="Requests an hour.")
@click.option("--default", "is_default", is_flag=True, help="The proxy's own limit.")
@as_json
@click.pass_obj
def set_limit(api: Api, token_id: str, rate_limit: int | None, is_default: bool, as_json: bool) -> None:
    """Set a token's requests an hour; they hold for the next call."""
    if is_default == (rate_limit is not None):
        raise click.UsageError("Name either --rate-limit or --default.")
    changed = api.ask("PATCH", f"/tokens/{segment(token_id)}", body={"rate_limit": rate_limit})
    show(changed, as_json=as_json, columns=TOKEN)


@limits.command("list")
@of_project
@of_token
@limited
@as_json
@click.pass_obj
def list_meters(api: Api, project: str | None, token_id: str | None, limit: int, as_json: bool) -> None:
    """List meters, and how they stand; a project's with those of its tokens."""
    whose = {"project_id": api.project_id(project) if project else None, "token_id": token_id}
    show(list(api.rows("/meters", limit=limit, **whose)), as_json=as_json, columns=METER)


@limits.command("add")
@of_project
@of_token
@click.option("--usd", help="So many dollars, such as 2.50.")
@click.option("--tokens", type=click.IntRange(min=1), help="So many LLM tokens.")
@click.option("--requests", type=click.IntRange(min=1), help="So many requests.")
@click.option("--per", type=click.Choice(PERIODS), required=True, help="Dollars: a day or longer.")
@click.option("--zone", help="Whose days they are, such as Europe/Berlin; UTC, if not named.")
@click.option("--model", "models", multiple=True, help="Of these models alone; may be said several times.")
@click.option("--name", help="What it is called in responses.")
@click.option("--bound", is_flag=True, help="Admit no call that could cost more than is left.")
@as_json
@click.pass_obj
def add_meter(
    api: Api,
    /,
    project: str | None,
    token_id: str | None,
    per: str,
    models: tuple[str, ...],
    bound: bool,
    as_json: bool,
    **more: Any,
) -> None:
    """Limit a project or a token, from the next call on."""
    amounts = {unit: amount for unit in ("usd", "tokens", "requests") if (amount := more.pop(unit)) is not None}
    if len(amounts) != 1 or (project is None) == (token_id is None):
        raise click.UsageError("Name one of --usd, --tokens and --requests, and either --project or --token.")
    [(unit, amount)] = amounts.items()
    body: dict[str, Any] = {"unit": unit, "amount": amount, "period": per}
    body |= {"token_id": token_id} if project is None else {"project_id": api.project_id(project)}
    body |= {name: value for name, value in more.items() if value is not None}
    body |= {"models": list(models)} if models else {}
    body |= {"reserve": "bound"} if bound else {}
    show(api.ask("POST", "/meters", body=body), as_json=as_json, columns=METER)


@limits.command("change")
@click.argument("meter_id", metavar="METER")
@click.argument("amount")
@as_json
@click.pass_obj
def change_meter(api: Api, meter_id: str, amount: str, as_json: bool) -> None:
    """Set a meter's amount; what was spent stays."""
    is_money = api.ask("GET", f"/meters/{segment(meter_id)}", "unit")["unit"] == "usd"
    if not is_money and not (amount.isascii() and amount.isdecimal() and len(amount) <= LONGEST_NUMBER):
        raise click.BadParameter("must be a whole number.", param_hint="AMOUNT")
    body = {"amount": amount if is_money else int(amount)}
    show(api.ask("PATCH", f"/meters/{segment(meter_id)}", body=body), as_json=as_json, columns=METER)


@limits.command("reset")
@click.argument("meter_id", metavar="METER")
@as_json
@click.pass_obj
def reset_meter(api: Api, meter_id: str, as_json: bool) -> None:
    """Let a meter have nothing spent."""
    show(api.ask("POST", f"/meters/{segment(meter_id)}/reset"), as_json=as_json, columns=METER)


@limits.command("delete")
@click.argument("meter_id", metavar="METER")
@click.pass_obj
def delete_meter(api: Api, meter_id: str) -> None:
    """Delete a meter: it limits nobody from the next call on."""
    api.ask("DELETE", f"/meters/{segment(meter_id)}")
