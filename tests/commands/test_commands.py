"""The commands: what they print, what they change, how they end, and that `flask` finds them."""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flask import Flask

import config
from accounting.ledger import note_dropped
from accounting.rollup import Rollup, UsageSums, node_id
from app import create_app
from control import projects
from control.audit import Actor
from llmproxy.api_log.read_record import ReadRecord
from llmproxy.api_log.retention import Dropped
from llmproxy.keyring import KeyRing
from models import Project, db
from services import Services
from tests.databases import database_of
from tests.receiver import receiver  # noqa: F401
from tests.records import PROJECT, TOKEN, append, older, record, refused
from tests.servers import EMBEDDED, ROOT, Server, environment

OLD_KEY, NEW_KEY = b"old-encryption-key-of-the-tests!", b"new-encryption-key-of-the-tests!"


@pytest.fixture
def make_app(tmp_path: Path):
    """Makes the application over one data directory; settings may differ from time to time."""
    made = []

    def make(**changes) -> Flask:
        settings = config.Settings(
            **{
                "data_dir": tmp_path,
                "database_url": database_of(tmp_path),
                "management_token": "management-token",
                "encryption_keys": (OLD_KEY,),
            }
            | changes
        )
        app = create_app(settings)
        made.append(app)
        return app

    yield make
    for app in made:
        Services.of(app).log.close()
        Services.of(app).upstream.close()
        with app.app_context():
            db.engine.dispose()


@pytest.fixture
def run(make_app):
    """Runs a command; what it ended with and printed."""

    def run_command(*arguments: str, **settings):
        result = make_app(**settings).test_cli_runner().invoke(args=arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.output

    return run_command


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "api_logs.jsonl"


# keys


def test_keys_are_sealed_anew_under_the_first_key(run, make_app):
    app = make_app()
    with app.app_context():
        keyring = Services.of(app).keyring
        project_id = projects.create(db.session, keyring, Actor("test"), name="p", openai_api_key="sk-planted").id

    rings = {"encryption_keys": (NEW_KEY, OLD_KEY)}
    assert run("keys", "rotate", **rings) == (0, "sealed 1 keys anew; 0 were current\n")
    assert run("keys", "rotate", **rings) == (0, "sealed 0 keys anew; 1 were current\n")

    with app.app_context():
        db.session.expire_all()
        sealed = db.session.get(Project, project_id).openai_api_key
    assert KeyRing((NEW_KEY,)).open(sealed, row_id=project_id) == "sk-planted"


def test_keys_that_do_not_open_are_counted_and_a_few_of_them_named(run, make_app):
    app = make_app()
    with app.app_context():
        keyring = Services.of(app).keyring
        ids = [
            projects.create(db.session, keyring, Actor("test"), name=f"p{n}", openai_api_key="sk-x").id
            for n in range(12)
        ]

    status, told = run("keys", "rotate", encryption_keys=(NEW_KEY,))

    assert status == 1 and "12 keys open under no key of ENCRYPTION_KEY" in told
    assert sum(project_id in told for project_id in ids) == 10


# ledger ship


def test_ship_once_delivers_what_is_there(run, log, receiver):  # noqa: F811
    append(log, [record(), record(), record()])

    settings = {"logging_url": receiver.url}
    assert run("ledger", "ship", "--once", **settings) == (0, "shipped 3 records, set 0 aside\n")
    assert run("ledger", "ship", "--once", **settings) == (0, "shipped 0 records, set 0 aside\n")

    assert len(receiver.records) == 3


def test_ship_once_fails_when_the_receiver_does(run, log, receiver):  # noqa: F811
    append(log, [record()])
    receiver.status = 503

    code, output = run("ledger", "ship", "--once", logging_url=receiver.url)

    assert code == 1
    assert "503" in output
    assert "planted-receiver-secret" not in output


def test_records_that_the_receiver_never_takes_are_set_aside_and_shown(run, log, receiver):  # noqa: F811
    append(log, [record()])
    receiver.status = 400

    assert run("ledger", "ship", "--once", logging_url=receiver.url)[1] == "shipped 0 records, set 1 aside\n"
    assert "dead letters: 1\n" in run("ledger", "status")[1]


def test_ship_needs_an_address(run):
    assert run("ledger", "ship", "--once") == (1, "Error: LOGGING_URL is not set\n")


# ledger status


def test_status_tells_how_far_each_reader_is(run, make_app, log, tmp_path, receiver):  # noqa: F811
    append(log, [record() for _ in range(5)])
    app = make_app()
    with app.app_context():
        rollup = Rollup(log, UsageSums(db.engine, node_id(tmp_path)))
        rollup.step(max_records=3)
        rollup.close()
    note_dropped(Services.of(app).settings, Dropped(bytes=700, records=7))
    note_dropped(Services.of(app).settings, Dropped(bytes=300, records=3))

    code, output = run("ledger", "status", logging_url=receiver.url)

    size = log.stat().st_size
    assert code == 0
    assert re.search(rf"^shipper: at the start, behind by 5 records, {size} bytes, the oldest .* ago$", output, re.M)
    assert re.search(
        rf"^rollup: at byte {size * 3 // 5} of segment \w+, behind by 2 records, \d+ bytes", output, re.M
    )
    assert "deleted unread: about 10 records, 1000 bytes\n" in output
    assert f"on disk: {size} bytes\n" in output


# ledger rebuild


def test_rebuild_recounts_and_says_what(run, log):
    append(log, [record(timestamp=f"2026-11-23T{hour}:30:00.000Z") for hour in (10, 10, 12)])

    assert run("ledger", "rebuild") == (
        0,
        "recounted 3 records of 2 hours, 2026-11-23T10:00Z to 2026-11-23T13:00Z\nreplaced the sums of 2 hours\n",
    )


def test_rebuild_of_a_log_of_before_says_what_counts_otherwise_now(run, log, monkeypatch):
    """The issue's own log: a response of 29 tokens, read three times, and a stream that failed inside."""
    usage = {"metadata": {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29, "model": "gpt-5"}}
    read = usage | {"method": "GET", "endpoint": "/v1/responses/resp_1"}
    failed = {"usage_source": "absent", "metadata": None, "error": {"code": "server_error", "type": None}}
    append(log, [older(endpoint="/v1/responses", **usage), *[older(**read)] * 3, older(stream=True, **failed)])
    with monkeypatch.context() as before:
        before.setattr("accounting.fold.is_reading", lambda record: False)
        before.setattr(ReadRecord, "failed_inside", False)
        run("ledger", "rebuild")

    _, output = run("ledger", "rebuild")

    assert "3 of them only read what was used before: their usage counts no more\n" in output
    assert "1 of them are older than prices: they have no cost, and count as unpriced\n" in output
    assert "errors: 0 before, 1 now\n" in output
    assert "total_tokens: 116 before, 29 now\n" in output
    assert run("ledger", "rebuild")[1].endswith("replaced the sums of 1 hours\n")


def test_rebuild_says_which_records_have_no_cost(run, log):
    append(log, [record(), older(), older()])

    _, output = run("ledger", "rebuild")

    assert "2 of them are older than prices: they have no cost, and count as unpriced\n" in output


# prices check


def recently(days: int = 1) -> str:
    return f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%dT%H:%M:%S.000Z}"


def test_models_without_a_price_are_named_with_the_way_to_price_them(run, log):
    unpriced = {"cost_usd": None, "cost_source": "unpriced", "timestamp": recently()}
    nameless = unpriced | {"metadata": None}
    append(log, [record(**unpriced, metadata={"model": "house", "prompt_tokens": 3})] * 2 + [record(**nameless)])
    append(log, [record(**unpriced), record(timestamp=recently())])
    run("ledger", "rebuild")

    code, output = run("prices", "check")

    assert code == 1
    assert output.splitlines() == [
        'house: 2 calls without a price. Write into your PRICES_FILE [model."house"], and below it in = … and out '
        "= … in dollars per million LLM tokens.",
        "no model named: 1 call without a price. Neither response nor request told what to price it by.",
        "gpt-4o: 1 call without a price. They are older than its price, or used a tool or a unit without one: see "
        "flask prices show gpt-4o.",
        "Error: 1 model has no price",
    ]


def test_all_is_well_where_every_model_has_a_price(run, log):
    append(log, [record(timestamp=recently())])
    run("ledger", "rebuild")

    assert run("prices", "check") == (0, "every call of the last 30 days has a price; the sheet is of 2026-11-26\n")


def test_calls_of_longer_ago_are_not_checked(run, log):
    append(log, [record(timestamp=recently(40), cost_usd=None, cost_source="unpriced", metadata={"model": "house"})])
    run("ledger", "rebuild")

    assert run("prices", "check")[0] == 0


def test_rebuild_names_the_hours_that_it_keeps(run, log):
    append(log, [record(), record()])
    run("ledger", "rebuild")
    log.unlink()
    append(log, [record()])

    _, output = run("ledger", "rebuild")

    # The new file is read besides the sums of the lost one.
    assert "kept the sums of 2026-11-23T10:00Z: the files hold fewer of its records\n" in output
    assert "replaced the sums of 1 hours" in run("ledger", "rebuild", "--from", "2026-11-23T10:00Z")[1]


def test_rebuild_refuses_what_is_no_time(run):
    code, output = run("ledger", "rebuild", "--from", "yesterday")

    assert code == 2
    assert "no ISO 8601 time" in output


# ledger query


@pytest.fixture
def query(run):
    """The ids of the records that a query prints."""

    def ids(*arguments: str) -> list[str]:
        code, output = run("ledger", "query", *arguments)
        assert code == 0
        return [json.loads(line)["request_id"] for line in output.splitlines()]

    return ids


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ([], ["e", "d", "c", "b", "a"]),
        (["--token", TOKEN], ["d", "c", "b", "a"]),
        (["--project", PROJECT, "--limit", "2"], ["d", "c"]),
        (["--status", "429"], ["e"]),
        (["--status", "5"], ["b"]),
        (["--outcome", "refused"], ["e"]),
        (["--from", "2026-11-23T11:00Z"], ["e", "d", "c"]),
        (["--to", "2026-11-23T11:00"], ["b", "a"]),
        (["--from", "2026-11-23T11:00:00+01:00", "--to", "2026-11-23T11:00Z"], ["b", "a"]),
        (["--token", "nobody"], []),
    ],
)
def test_query_finds_records_in_every_segment(query, log, arguments, found):
    append(log.with_name("api_logs.20261123T103000000000Z.jsonl"), [record(request_id="a")])
    append(log.with_name("api_logs.20261123T113000000000Z.jsonl"), [record(request_id="b", status_code=503)])
    nobody = {"token": None, "project_id": None}
    append(
        log,
        [
            record(request_id="c", timestamp="2026-11-23T11:00:00.000Z"),
            record(request_id="d", timestamp="2026-11-23T11:30:00.000Z"),
            refused(request_id="e", timestamp="2026-11-23T12:00:00.000Z", **nobody),
        ],
    )

    assert query(*arguments) == found


def test_a_record_without_a_readable_time_is_in_no_span_of_time(query, log):
    append(log, [record(request_id=stamp, timestamp=stamp) for stamp in ("2026-11-23T11:00:00", "yesterday")])
    append(log, [record(request_id="good")])

    assert query("--from", "2026-11-23T00:00Z") == ["good"]
    assert query() == ["good", "yesterday", "2026-11-23T11:00:00"]


def test_a_long_stream_is_found_by_its_arrival_though_it_was_written_late(query, log):
    append(
        log,
        [
            record(request_id="short", timestamp="2026-11-23T10:00:00.000Z", duration_ms=5.0),
            record(request_id="long", timestamp="2026-11-23T08:00:00.000Z", duration_ms=7_500_000.0),
        ],
    )

    assert query("--from", "2026-11-23T09:00Z") == ["short"]
    assert query("--to", "2026-11-23T09:00Z") == ["long"]


# `flask` itself


def flask(*arguments: str, cwd: Path = ROOT, **environ: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).with_name("flask"))
    return subprocess.run(
        [program, *arguments], cwd=cwd, env=environ, capture_output=True, text=True, timeout=200, check=False
    )


def test_a_command_beside_a_deployed_server_takes_its_settings_from_the_environment(tmp_path):
    done = flask("--app", "wsgi", "ledger", "status", **environment(tmp_path / "data"))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("rollup: at the start")


@pytest.mark.sqlite
def test_a_command_beside_an_embedded_server_uses_the_secrets_that_it_keeps(tmp_path):
    data_dir = tmp_path / "data"
    unset = dict.fromkeys(("MANAGEMENT_TOKEN", "ADMIN_USER", "ADMIN_PASSWORD", "ENCRYPTION_KEY"))
    with Server(EMBEDDED, data_dir, empty=True, **unset) as server:
        done = flask("keys", "rotate", **server.settings)

    assert (done.returncode, done.stdout) == (0, "sealed 0 keys anew; 0 were current\n")


@pytest.mark.parametrize("arguments", [["keys", "rotate"], ["ledger", "status"], ["--help"]])
def test_flask_without_settings_says_so_in_one_line_and_makes_nothing(arguments, tmp_path):
    done = flask("--app", str(ROOT / "wsgi.py"), *arguments, cwd=tmp_path, PATH=os.defpath)

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert all(name in done.stderr for name in config.REQUIRED_WHEN_DEPLOYED)
    assert list(tmp_path.iterdir()) == []


def test_prices_of_a_project_that_is_not_there_are_told_of(run, tmp_path):
    (tmp_path / "prices.toml").write_text('[project."no such".model.m]\nin = 1\n')

    output = run("prices", "check", prices=config.own_prices(str(tmp_path / "prices.toml")))[1]

    assert 'PRICES_FILE has prices for a project "no such", but there is none of this name\n' in output
