"""The commands. Each is one question to the management API, and what is printed of its answer."""

from __future__ import annotations

import errno
import io
import sys
from datetime import datetime
from typing import Any, BinaryIO

import click

from operator_cli.api import Api
from operator_cli.lifetime import end_of
from operator_cli.limits import PERIODS, limits
from operator_cli.options import TOKEN, a_project, active, an_id, as_json, limited, segment
from operator_cli.output import require_stdout, show, show_issued, tell

PROJECT = ("name", "id", "is_active", "key_hint", "base_url", "created_at")
SUMS = ("requests", "refusals", "errors", "prompt_tokens", "completion_tokens", "cost_usd")
_WHO = {"project": ("name",), "token": ("token_id", "name")}
_MOST_KEY_BYTES = 64 * 1024


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and tell in a line what of its input or output cannot be read or written."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            # What was done is told also where the terminal lacks a letter.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except OSError as exc:
            if exc.errno == errno.EPIPE:  # `| head` has seen enough
                raise
            raise click.ClickException(f"stdout cannot be written: {exc.strerror or exc}.") from exc


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--url", envvar="LLM_PROXY_URL", default="http://127.0.0.1:8080", show_default=True, show_envvar=True,
              help="Where the proxy serves operators.")  # fmt: skip
@click.option("--token-file", envvar="MANAGEMENT_TOKEN_FILE", type=click.File("rb"), show_envvar=True,
              help="Holds the management token. It may be in MANAGEMENT_TOKEN itself, too.")  # fmt: skip
@click.option("--ca-file", envvar="LLM_PROXY_CA_FILE", type=click.Path(exists=True, dir_okay=False), show_envvar=True,
              help="Certificates to trust, for a proxy whose own is signed by your company.")  # fmt: skip
@click.option("--management-token", envvar="MANAGEMENT_TOKEN", hidden=True)
@click.pass_context
def main(
    context: click.Context, url: str, token_file: BinaryIO | None, ca_file: str | None, management_token: str | None
) -> None:
    """Projects, tokens and usage of a running llm-proxy. PROJECT is a project's name or its id."""
    token = _secret(token_file, "--token-file") if token_file else management_token
    context.obj = Api(url, token, ca_file)


@main.group()
def projects() -> None:
    """Owners of upstream keys."""


@projects.command("list")
@active
@limited
@as_json
@click.pass_obj
def list_projects(api: Api, active: bool | None, limit: int, as_json: bool) -> None:
    """List projects, the newest first."""
    show(list(api.rows("/projects", limit=limit, active=_flag(active))), as_json=as_json, columns=PROJECT)


@projects.command("show")
@a_project
@as_json
@click.pass_obj
def show_project(api: Api, project: str, as_json: bool) -> None:
    """Show a project."""
    show(api.ask("GET", f"/projects/{api.project_id(project)}"), as_json=as_json, columns=PROJECT)


@projects.command("create")
@click.argument("name")
@click.option("--base-url", help="Where its calls go, if not to UPSTREAM_URL.")
@click.option("--ask-usage", is_flag=True, help="Ask for the usage of streams whose callers do not.")
@as_json
@click.pass_obj
def create_project(api: Api, name: str, base_url: str | None, ask_usage: bool, as_json: bool) -> None:
    """Create a project. Its upstream key is read from stdin, or asked for at a terminal."""
    body = {"name": name, "openai_api_key": _key()}
    body |= {"base_url": base_url} if base_url else {}
    body |= {"stream_usage": "ask"} if ask_usage else {}
    show(api.ask("POST", "/projects", body=body), as_json=as_json, columns=PROJECT)


@projects.command("rekey")
@a_project
@click.pass_obj
def rekey_project(api: Api, project: str) -> None:
    """Give a project another upstream key, read from stdin or asked for; it holds for the next call."""
    api.ask("PATCH", f"/projects/{api.project_id(project)}", body={"openai_api_key": _key()})


@projects.command("on")
@a_project
@click.pass_obj
def switch_on(api: Api, project: str) -> None:
    """Let a project's tokens be used."""
    api.ask("PATCH", f"/projects/{api.project_id(project)}", body={"is_active": True})


@projects.command("off")
@a_project
@click.pass_obj
def switch_off(api: Api, project: str) -> None:
    """Refuse all calls of a project, until it is switched on again."""
    api.ask("PATCH", f"/projects/{api.project_id(project)}", body={"is_active": False})


@projects.command("delete")
@a_project
@click.option("--force", is_flag=True, help="Even while its tokens live.")
@click.pass_obj
def delete_project(api: Api, project: str, force: bool) -> None:
    """Delete a project with its tokens."""
    api.ask("DELETE", f"/projects/{api.project_id(project)}", query={"force": _flag(force)})


@main.group()
def tokens() -> None:
    """What callers hold."""


@tokens.command("list")
@click.option("--project", help="Of this project alone.")
@active
@limited
@as_json
@click.pass_obj
def list_tokens(api: Api, project: str | None, active: bool | None, limit: int, as_json: bool) -> None:
    """List tokens, the newest first."""
    whose = api.project_id(project) if project else None
    show(
        list(api.rows("/tokens", limit=limit, project_id=whose, active=_flag(active))), as_json=as_json, columns=TOKEN
    )


@tokens.command("show")
@an_id
@as_json
@click.pass_obj
def show_token(api: Api, token_id: str, as_json: bool) -> None:
    """Show a token."""
    show(api.ask("GET", f"/tokens/{segment(token_id)}"), as_json=as_json, columns=TOKEN)


@tokens.command("issue")
@a_project
@click.option("--hours", type=click.IntRange(min=1), help="How long it lives.")
@click.option("--until", help="Until the end of this day here: a weekday, or a date such as 2026-12-24.")
@click.option("--count", type=click.IntRange(min=1), help="So many at once, with numbered labels.")
@click.option("--label", help="What it is for.")
@click.option("--rate-limit", type=click.IntRange(min=1), help="Requests an hour, if not the proxy's own limit.")
@click.option("--usd", help="A budget in dollars, such as 2.50.")
@click.option("--per", type=click.Choice(PERIODS[2:]), help="The budget's period; total, if not named.")
@click.option("--zone", help="Whose days they are, such as Europe/Berlin; UTC, if not named.")
@click.option("--bound", is_flag=True, help="Admit no call that could cost more than is left of the budget.")
@as_json
@click.pass_obj
def issue_token(
    api: Api, /, project: str, hours: int | None, until: str | None, count: int | None, as_json: bool, **more: Any
) -> None:
    """
    Issue a token. Its secret alone goes to stdout: export OPENAI_API_KEY=$(llm-proxy tokens issue …)

    Of several, each line has a label and a secret.
    """
    if (hours is None) == (until is None):
        raise click.UsageError("Name either --hours or --until.")
    body: dict[str, Any] = {"project_id": api.project_id(project)}
    if until is None:
        body["duration_hours"] = hours
    else:
        body["expires_at"] = end_of(until, datetime.now().astimezone()).isoformat()
    body |= (
        {name: more[name] for name in ("label", "rate_limit")} | _budget(more) | ({"count": count} if count else {})
    )
    require_stdout()
    show_issued(api.ask("POST", "/tokens", "token" if count is None else "data", body=body), as_json=as_json)


@tokens.command("rotate")
@an_id
@click.option("--grace", "hours", type=click.IntRange(min=0), required=True, help="Hours that the old secret works.")
@as_json
@click.pass_obj
def rotate_token(api: Api, token_id: str, hours: int, as_json: bool) -> None:
    """Give a token a new secret, which alone goes to stdout."""
    require_stdout()
    rotated = api.ask("POST", f"/tokens/{segment(token_id)}/rotate", "token", body={"grace_hours": hours})
    show_issued(rotated, as_json=as_json)


@tokens.command("revoke")
@an_id
@click.pass_obj
def revoke_token(api: Api, token_id: str) -> None:
    """Revoke a token, by its public id."""
    api.ask("DELETE", f"/tokens/{segment(token_id)}")


@tokens.command("revoke-all")
@a_project
@click.pass_obj
def revoke_all(api: Api, project: str) -> None:
    """Revoke every token of a project."""
    revoked = api.ask("POST", f"/projects/{api.project_id(project)}/revoke", "revoked")["revoked"]
    tell(f"revoked {revoked} tokens")


main.add_command(limits)


@main.command()
@click.option(
    "--by", type=click.Choice(["hour", "day", "project", "token", "model"]), default="day", show_default=True
)
@click.option("--from", "begin", help="ISO 8601 with a zone; a day before the end, if not named.")
@click.option("--to", "end", help="ISO 8601 with a zone; now, if not named.")
@click.option("--project", help="Of this project alone.")
@click.option("--token", "token_id", help="Of the token with this public id alone.")
@click.option("--model", help="Of this model alone.")
@click.option("--tz", help="With --by day: days of this zone, such as Europe/Berlin, and not of UTC.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True,
              help="Rows at most, if not hours or days.")  # fmt: skip
@as_json
@click.pass_obj
def usage(
    api: Api,
    /,
    by: str,
    begin: str | None,
    end: str | None,
    project: str | None,
    limit: int,
    as_json: bool,
    **more: Any,
) -> None:
    """Sums of usage and what they cost."""
    whose = api.project_id(project) if project else None
    query = {"group_by": by, "from": begin, "to": end, "project_id": whose, **more}
    answer = api.usage(limit=limit, **query)
    who_or_when = _WHO.get(by, (by,))
    total = {who_or_when[0]: "total", **answer["total"]}
    show(answer if as_json else [*answer["data"], total], as_json=as_json, columns=(*who_or_when, *SUMS))


def _budget(told: dict[str, Any]) -> dict[str, Any]:
    if told["usd"] is None:
        if told["per"] or told["zone"] or told["bound"]:
            raise click.UsageError("--per, --zone and --bound are of a budget: name it by --usd.")
        return {}
    budget = {"usd": told["usd"], "per": told["per"] or "total"} | ({"zone": told["zone"]} if told["zone"] else {})
    return {"budget": budget | ({"reserve": "bound"} if told["bound"] else {})}


def _flag(value: bool | None) -> str | None:
    return None if value is None else str(value).lower()


def _key() -> str:
    if sys.stdin is None:
        raise click.UsageError("Send the upstream key on stdin, which is closed.")
    if sys.stdin.isatty():
        return str(click.prompt("Upstream key", hide_input=True, err=True))
    return _secret(sys.stdin.buffer, "stdin")


def _secret(source: BinaryIO, name: str) -> str:
    """What a file holds, without blanks around it. Raises BadParameter for what is no text of a header."""
    try:
        held = source.read(_MOST_KEY_BYTES).strip()
    except OSError as exc:
        raise click.BadParameter(f"cannot be read: {exc.strerror}.", param_hint=name) from exc
    if not held.isascii():
        raise click.BadParameter("holds no secret: a byte in it is not ASCII.", param_hint=name)
    return held.decode("ascii")


if __name__ == "__main__":
    main(prog_name="llm-proxy")
