"""`flask ledger …`: the call log and what reads it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import click
from flask import current_app
from flask.cli import AppGroup

from accounting import ledger
from accounting.recount import Recount, recount
from accounting.rollup import Rollup
from config import Settings
from llmproxy.admission import utc_now
from llmproxy.api_log.latest import Filter, search
from llmproxy.api_log.read_record import ReadRecord
from llmproxy.api_log.reader import LogReader, ReaderBusy
from services import Services

LOCK_WAIT_S = 60.0
_OUTCOMES = ["complete", "refused", "client_closed", "upstream_failed", "upstream_timeout"]

ledger_commands = AppGroup("ledger", help="The call log and what reads it.")


class _Time(click.ParamType[datetime]):
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no ISO 8601 time, such as 2026-11-23T10:00Z", param, ctx)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


@ledger_commands.command("ship")
@click.option("--once", is_flag=True, help="Ship what is there now, and end: 0 when all of it went, otherwise 1.")
def ship(once: bool) -> None:
    """Ship records to LOGGING_URL; without --once until interrupted."""
    settings = Services.of(current_app).settings
    if not settings.logging_url:
        raise click.ClickException("LOGGING_URL is not set")
    shipper = ledger.open_shipper(settings)
    if not once:
        shipper.run()
        return
    try:
        result = shipper.ship_once()
    except ReaderBusy as exc:
        raise click.ClickException("a running proxy ships the records itself") from exc
    finally:
        shipper.close()
    click.echo(f"shipped {result.delivered} records, set {result.dead_lettered} aside")
    if result.stopped_by:
        raise click.ClickException(result.stopped_by)


@ledger_commands.command("status")
def status() -> None:
    """Tell how far each reader is, and what was lost or set aside."""
    settings = Services.of(current_app).settings
    now = utc_now()
    for name, reader in _readers(settings):
        position, lag = reader.positions.load(), reader.lag(count_records=True)
        place = f"byte {position.offset} of segment {position.segment}" if position.segment else "the start"
        age = lag.age_s(now)
        oldest = "" if age is None else f", the oldest {timedelta(seconds=round(age))} ago"
        click.echo(f"{name}: at {place}, behind by {lag.records} records, {lag.bytes} bytes{oldest}")
    dropped = ledger.dropped_so_far(settings)
    click.echo(f"dead letters: {ledger.count_dead_letters(settings)}")
    click.echo(f"deleted unread: about {dropped.records} records, {dropped.bytes} bytes")
    click.echo(f"on disk: {ledger.disk_bytes(settings)} bytes")


def _readers(settings: Settings) -> Iterator[tuple[str, LogReader]]:
    if settings.logging_url:
        yield "shipper", LogReader(settings.log_path, ledger.SHIPPER)
    yield "rollup", ledger.open_rollup(settings, Services.of(current_app).engine).reader


@ledger_commands.command("rebuild")
@click.option(
    "--from",
    "replace_from",
    type=_Time(),
    help="Replace every hour from this one on, also where the files hold fewer records than the sums.",
)
def rebuild(replace_from: datetime | None) -> None:
    """
    Count the log files that are still there again, and put the sums of usage right.

    An hour whose files are gone, wholly or in part, keeps its sums.
    """
    parts = Services.of(current_app)
    settings = parts.settings
    rollup = ledger.open_rollup(settings, parts.engine, parts.store)
    _acquire(rollup)
    try:
        while rollup.step():
            pass
        _tell(recount(settings.log_path, parts.engine, rollup.sums, replace_from=replace_from))
    finally:
        rollup.close()


def _acquire(rollup: Rollup) -> None:
    """Become the one who adds: a serving proxy lets go between two ticks."""
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            rollup.reader.acquire()
            return
        except ReaderBusy as exc:
            if time.monotonic() > deadline:
                raise click.ClickException("another process adds usage up and does not pause; try again") from exc
            time.sleep(0.02)


def _tell(done: Recount) -> None:
    hours = sorted(done.replaced + done.kept)
    span = f", {hours[0]:%Y-%m-%dT%H:%MZ} to {hours[-1] + timedelta(hours=1):%Y-%m-%dT%H:%MZ}" if hours else ""
    click.echo(f"recounted {done.records} records of {len(hours)} hours{span}")
    if done.reads:
        click.echo(f"{done.reads} of them only read what was used before: their usage counts no more")
    if done.before_prices:
        click.echo(f"{done.before_prices} of them are older than prices: they have no cost, and count as unpriced")
    click.echo(f"replaced the sums of {len(done.replaced)} hours")
    for name, (before, after) in done.changes.items():
        click.echo(f"{name}: {before} before, {after} now")
    for hour in done.kept:
        click.echo(f"kept the sums of {hour:%Y-%m-%dT%H:%MZ}: the files hold fewer of its records")


@ledger_commands.command("query")
@click.option("--token", help="A token's public id.")
@click.option("--project", help="A project's id.")
@click.option("--status", help="A status, or the first digit of one: 429, 5.")
@click.option("--outcome", type=click.Choice(_OUTCOMES))
@click.option("--from", "begin", type=_Time(), help="Arrived then or later; UTC where no zone is given.")
@click.option("--to", "end", type=_Time(), help="Arrived earlier.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
def query(
    token: str | None,
    project: str | None,
    status: str | None,
    outcome: str | None,
    begin: datetime | None,
    end: datetime | None,
    limit: int | None,
) -> None:
    """Print records as lines of JSON, the latest first."""
    wanted = Filter(project_id=project, token_id=token, status=status, outcome=outcome, begin=begin, end=end)
    for record in islice(_matching(wanted), limit):
        click.echo(record.line)


def _matching(wanted: Filter) -> Iterator[ReadRecord]:
    before = None
    while True:
        found = search(Services.of(current_app).settings.log_path, wanted, limit=1000, before=before)
        yield from (record for _, record in found.records)
        if (before := found.older) is None:
            return
