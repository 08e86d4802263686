"""Starts: the first one on one's own machine, the deployed one, and everything that can be wrong with either."""

import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.databases import database_of, execute
from tests.http_by_hand import call
from tests.servers import (
    DEPLOYED,
    EMBEDDED,
    START_S,
    UPSTREAM_KEY,
    Server,
    calls_in,
    environment,
    fetch,
    on_both_servers,
)

ROOT = Path(__file__).resolve().parents[2]
NO_SECRETS = dict.fromkeys(["MANAGEMENT_TOKEN", "ADMIN_USER", "ADMIN_PASSWORD", "ENCRYPTION_KEY"])
MADE = ["management_token", "admin_password", "encryption_key"]


def fails_to_start(kind, data_dir, *, empty=True, **settings) -> str:
    """What a start that must fail says."""
    server = Server(kind, data_dir, empty=empty, **settings)
    server.start()
    try:
        assert server.wait(START_S) not in (0, None)
    finally:
        server.kill()
    assert "Traceback" not in server.output()
    return server.output()


# --- the first start ---


@pytest.mark.sqlite
def test_the_first_start_makes_its_secrets_and_shows_them_once(tmp_path):
    data_dir = tmp_path / "data"
    with Server(EMBEDDED, data_dir, empty=True, **NO_SECRETS) as server:
        made = {name: (data_dir / name).read_text().strip() for name in MADE}
        assert all(str(data_dir / name) in server.output() for name in MADE)
        assert made["management_token"] in server.output() and made["admin_password"] in server.output()
        assert made["encryption_key"] not in server.output()
        assert all(stat.S_IMODE((data_dir / name).stat().st_mode) == 0o600 for name in MADE)
        assert all(len(secret) >= 40 for secret in made.values()) and len(set(made.values())) == 3

    with Server(EMBEDDED, data_dir, empty=True, **NO_SECRETS) as server:
        assert {name: (data_dir / name).read_text().strip() for name in MADE} == made
        assert [secret for secret in made.values() if secret in server.output()] == []
        bearer = {"Authorization": f"Bearer {made['management_token']}"}
        assert fetch(server.url, "GET", "/manage/projects", bearer)[0] == 200


@pytest.mark.sqlite  # with PostgreSQL it refuses, for every node needs the same key
def test_the_images_start_makes_its_encryption_key_says_so_once_and_keeps_it(upstream, tmp_path):
    image = {
        "UPSTREAM_URL": upstream.url,
        "ENCRYPTION_KEY": None,
        "MAKE_ENCRYPTION_KEY": "true",
        "WEB_CONCURRENCY": "2",
    }
    with Server(DEPLOYED, tmp_path / "data", empty=True, **image) as server:
        token = server.issue_token()
        assert f"made {tmp_path / 'data' / 'encryption_key'}" in server.output()

    with Server(DEPLOYED, tmp_path / "data", empty=True, **image) as server:
        assert fetch(server.url, "GET", "/v1/models", dict([token.bearer]))[0] == 200
        assert dict(upstream.last_request()["headers"])["Authorization"] == f"Bearer {UPSTREAM_KEY}"
        assert "encryption_key" not in server.output()

    (tmp_path / "data" / "encryption_key").unlink()
    assert "llm-proxy.db was made with one" in fails_to_start(DEPLOYED, tmp_path / "data", **image)


@pytest.mark.once
@pytest.mark.parametrize("option", ["--certfile", "--keyfile"])
def test_gunicorn_is_not_let_speak_tls_itself(tmp_path, option):
    (tmp_path / "file").touch()

    said = fails_to_start(DEPLOYED, tmp_path / "data", empty=False, GUNICORN_CMD_ARGS=f"{option} {tmp_path / 'file'}")

    assert "end TLS in front of it" in said


@pytest.mark.sqlite
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("settings", [NO_SECRETS, {}], ids=["made secrets", "set secrets"])
@pytest.mark.parametrize("place", ["data", "data of mine (1)"])
def test_the_three_commands_of_the_first_start_work_when_pasted(upstream, tmp_path, settings, place):
    with Server(EMBEDDED, tmp_path / place, empty=True, UPSTREAM_URL=upstream.url, **settings) as server:
        commands = server.output().partition("to your real key:")[2]
        assert commands.count("curl ") == 3
        environ = {"PATH": "/usr/local/bin:/usr/bin:/bin", "OPENAI_API_KEY": UPSTREAM_KEY} | {
            name: value for name, value in server.settings.items() if name == "MANAGEMENT_TOKEN"
        }
        done = subprocess.run(
            ["bash"],
            input=commands,
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

        assert done.stderr == "" and json.loads(done.stdout)["object"] == "chat.completion"
        assert dict(upstream.last_request()["headers"])["Authorization"] == f"Bearer {UPSTREAM_KEY}"


@pytest.mark.sqlite
def test_the_first_start_needs_no_environment_and_a_relative_data_dir_is_fine(tmp_path):
    with Server(
        EMBEDDED,
        tmp_path / "data",
        empty=True,
        cwd=tmp_path,
        **NO_SECRETS,
        HOST=None,
        DATA_DIR=None,
        WEB_CONCURRENCY=None,
    ):
        assert (tmp_path / "data" / "llm-proxy.db").exists()


@pytest.mark.sqlite
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_the_first_start_stays_on_loopback_and_names_the_other_one(tmp_path, host):
    said = fails_to_start(EMBEDDED, tmp_path / "data", HOST=host)

    assert f"HOST={host}" in said and "gunicorn -c gunicorn.conf.py wsgi:app" in said


@pytest.mark.once
@on_both_servers
def test_both_servers_listen_on_ipv6(server_kind, tmp_path):
    with Server(server_kind, tmp_path / "data", HOST="::1") as server:
        assert server.url.startswith("http://[::1]:")
        assert fetch(server.url, "GET", "/healthz")[0] == 200


# --- the deployed start ---


@pytest.mark.once
def test_a_deployed_start_without_secrets_names_them_all_at_once(tmp_path):
    said = fails_to_start(DEPLOYED, tmp_path / "data", **NO_SECRETS)

    assert [name for name in NO_SECRETS if f"{name}: is not set" not in said] == []
    assert not (tmp_path / "data" / "management_token").exists()


@pytest.mark.once
@on_both_servers
def test_a_start_warns_of_what_is_easily_guessed_or_overheard(server_kind, tmp_path):
    settings = {"ADMIN_PASSWORD": "admin", "MANAGEMENT_TOKEN": "secret", "UPSTREAM_URL": "http://models.internal"}
    with Server(server_kind, tmp_path / "data", **settings) as server:
        said = server.output()

    assert "ADMIN_PASSWORD is easy to guess" in said and "MANAGEMENT_TOKEN is easy to guess" in said
    assert "http://models.internal is not encrypted" in said
    assert not re.search(r"\bsecret\b", said)


@pytest.mark.once
@on_both_servers
def test_a_name_that_is_nearly_a_settings_is_warned_about_once_and_its_value_not_shown(server_kind, tmp_path):
    settings = {"RATE_LIMIT_PER_HOURS": "planted-value", "LOGGING_TOKEN_FIL": "planted-value", "WEB_CONCURRENCY": "2"}
    with Server(server_kind, tmp_path / "data", **settings) as server:
        assert server.manage("GET", "/projects")[0] == 200
        said = server.output()

    assert said.count("RATE_LIMIT_PER_HOURS is no setting: is RATE_LIMIT_PER_HOUR meant?") == 1
    assert said.count("LOGGING_TOKEN_FIL is no setting: is LOGGING_TOKEN_FILE meant?") == 1
    assert said.count(" is no setting") == 2 and "planted" not in said


@pytest.mark.once
@on_both_servers
def test_secrets_may_come_from_files(server_kind, tmp_path):
    (tmp_path / "token").write_text("management-token-from-a-file\n")
    settings = {"MANAGEMENT_TOKEN": None, "MANAGEMENT_TOKEN_FILE": str(tmp_path / "token")}
    with Server(server_kind, tmp_path / "data", **settings) as server:
        bearer = {"Authorization": "Bearer management-token-from-a-file"}
        assert fetch(server.url, "GET", "/manage/projects", bearer)[0] == 200


# --- wrong settings ---

WRONG = {
    "PORT": "eighty",
    "UPSTREAM_URL": "ftp://example.org",
    "DATABASE_URL": "mysql://x",
    "ENCRYPTION_KEY": "short",
    "RATE_LIMIT_PER_HOUR": "0",
    "MAX_BODY_BYTES": "-1",
    "MIN_BODY_RATE": "nan",
    "CONNECT_TIMEOUT": "soon",
    "FIRST_BYTE_TIMEOUT": "-1",
    "IDLE_TIMEOUT": "nan",
    "DRAIN_OVERLAP": "-1",
    "DRAIN_TIMEOUT": "inf",
    "WEB_CONCURRENCY": "0",
    "LOG_STRICT": "perhaps",
    "LOGGING_URL": "example.org",
    "ADMIN_USER": "a:b",
    "MANAGEMENT_TOKEN": "two words\n",
}


@pytest.mark.once
@on_both_servers
def test_a_start_with_wrong_settings_names_every_one_of_them(server_kind, tmp_path):
    (tmp_path / "file").write_text("")
    said = fails_to_start(server_kind, tmp_path / "data", **WRONG | {"DATA_DIR": str(tmp_path / "file" / "data")})

    assert [name for name in [*WRONG, "DATA_DIR"] if f"- {name}: " not in said] == []
    assert said.count("wrong settings") == 1


@pytest.mark.once
@on_both_servers
def test_settings_that_do_not_go_together_stop_the_start(server_kind, tmp_path):
    sizes = {"LOG_MAX_FILE_BYTES": "8192", "LOG_MAX_TOTAL_BYTES": "16383"}
    said = fails_to_start(server_kind, tmp_path / "data", **sizes, ADMIN_USER="a" * 201)

    assert "LOG_MAX_TOTAL_BYTES: must be at least twice LOG_MAX_FILE_BYTES, which is 8192" in said
    assert "ADMIN_USER: must have at most 200 characters" in said


@pytest.mark.once
@on_both_servers
def test_cloudwatch_without_its_library_stops_the_start_and_says_how_to_install_it(server_kind, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['boto3'] = None")
    url = "cloudwatch://group/stream?region=eu-west-1"
    said = fails_to_start(server_kind, tmp_path / "data", LOGGING_URL=url, PYTHONPATH=str(tmp_path))

    assert "LOGGING_URL: needs boto3: pip install -r requirements-cloudwatch.txt" in said


@pytest.mark.once
@on_both_servers
def test_a_data_directory_that_is_a_file_stops_the_start(server_kind, tmp_path):
    (tmp_path / "file").write_text("")
    said = fails_to_start(server_kind, tmp_path / "data", DATA_DIR=str(tmp_path / "file"))

    assert "DATA_DIR: cannot write to" in said and str(tmp_path / "file") in said


@pytest.mark.sqlite
@on_both_servers
def test_a_database_that_cannot_be_opened_stops_the_start_with_a_clear_message(server_kind, tmp_path):
    (tmp_path / "data" / "llm-proxy.db").mkdir(parents=True)
    said = fails_to_start(server_kind, tmp_path / "data")

    assert "database" in said


@pytest.mark.once
@on_both_servers
def test_a_port_that_is_taken_stops_the_start(server_kind, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = fails_to_start(server_kind, tmp_path / "data", PORT=port)

    assert port in said and re.search("in use", said)


# --- several of them ---


@pytest.mark.sqlite
def test_both_servers_share_one_database(upstream, tmp_path):
    with Server(EMBEDDED, tmp_path / "data", UPSTREAM_URL=upstream.url) as first:
        token = first.issue_token(rate_limit=2)
        with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url) as second:
            statuses = [call(server.url, "GET", "/v1/models", token.bearer).status for server in (first, second) * 2]

            assert statuses == [200, 200, 429, 429]
            assert calls_in(second.wait_for_records(4, token)) == 4


def test_workers_that_start_together_migrate_once(tmp_path):
    with Server(DEPLOYED, tmp_path / "data", empty=True, WEB_CONCURRENCY="4") as server:
        assert server.manage("GET", "/projects")[0] == 200
        assert len(server.worker_pids()) == 4
        assert len(server.rows("SELECT * FROM alembic_version")) == 1


@pytest.mark.once
def test_there_is_a_worker_for_each_core_that_the_server_may_use(tmp_path):
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(ours)})  # which a process that we start inherits
    try:
        with Server(DEPLOYED, tmp_path / "data", WEB_CONCURRENCY=None) as server:
            assert len(server.worker_pids()) == 1
    finally:
        os.sched_setaffinity(0, ours)


@pytest.mark.once
def test_workers_have_in_common_what_was_loaded_before_they_were_forked(tmp_path):
    with Server(DEPLOYED, tmp_path / "data", WEB_CONCURRENCY="2") as server:
        rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in server.worker_pids()]

    shared_kb = [int(re.search(r"^Shared_Dirty: +(\d+) kB", rollup, re.MULTILINE)[1]) for rollup in rollups]
    assert len(shared_kb) == 2 and min(shared_kb) > 20_000  # it was 5,000 when each loaded all for itself


@pytest.mark.postgres
def test_nor_does_a_worker_load_what_postgresql_needs_for_itself(tmp_path, postgres_server):
    with Server(DEPLOYED, tmp_path / "data", DATABASE_URL=postgres_server.new_database()) as server:
        [worker] = server.worker_pids()
        loaded = [set(Path(f"/proc/{pid}/maps").read_text().split()) for pid in (server.process.pid, worker)]

    driver = [path for path in loaded[1] if "psycopg" in path]
    assert driver and set(driver) <= loaded[0]


@pytest.mark.sqlite
def test_a_start_on_sqlite_loads_nothing_of_postgresql(tmp_path):
    code = "import sys, wsgi; print([name for name in sys.modules if 'postgresql' in name or 'psycopg' in name])"
    env = environment(tmp_path / "data")
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.once
def test_a_deployed_server_opens_no_control_socket_and_writes_no_access_log(upstream, tmp_path):
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url, WEB_CONCURRENCY="2") as server:
        assert call(server.url, "GET", "/v1/models", server.issue_token().bearer).status == 200
        assert call(server.url, "GET", "/healthz").status == 200
        sockets = {line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if "/" in line}

        assert [path for path in sockets if "gunicorn" in path or str(tmp_path) in path] == []
    assert "GET /" not in server.output()


@pytest.mark.once
def test_gunicorns_access_log_is_there_for_who_asks_for_it(tmp_path):
    with Server(DEPLOYED, tmp_path / "data", GUNICORN_CMD_ARGS="--access-logfile -") as server:
        assert call(server.url, "GET", "/healthz").status == 200
    assert '"GET /healthz HTTP/1.1" 200' in server.output()


@on_both_servers
def test_tokens_outlive_a_restart(server_kind, upstream, tmp_path):
    with Server(server_kind, tmp_path / "data", UPSTREAM_URL=upstream.url) as server:
        token = server.issue_token()

    with Server(server_kind, tmp_path / "data", UPSTREAM_URL=upstream.url) as server:
        assert call(server.url, "GET", "/v1/models", token.bearer).status == 200


# --- beside a newer version ---


NEWER = "UPDATE alembic_version SET version_num = '9999'"


@on_both_servers
def test_a_schema_of_a_newer_version_is_gone_on_with_where_that_allows_it(server_kind, upstream, tmp_path):
    data_dir = tmp_path / "data"
    execute(database_of(data_dir), NEWER)

    with Server(server_kind, data_dir, UPSTREAM_URL=upstream.url) as server:
        token = server.issue_token()
        assert call(server.url, "GET", "/v1/models", token.bearer).status == 200


def test_a_worker_that_is_killed_is_replaced_beside_a_newer_version(upstream, tmp_path):
    data_dir = tmp_path / "data"
    with Server(DEPLOYED, data_dir, UPSTREAM_URL=upstream.url, WEB_CONCURRENCY="1") as server:
        token = server.issue_token()
        execute(database_of(data_dir), NEWER)

        server.kill_a_worker()

        assert call(server.url, "GET", "/v1/models", token.bearer).status == 200


@on_both_servers
def test_a_schema_that_this_version_would_get_wrong_is_refused_in_one_line(server_kind, tmp_path):
    data_dir = tmp_path / "data"
    url = database_of(data_dir)
    execute(url, NEWER)
    execute(url, "UPDATE schema_floor SET oldest = '9999'")

    said = fails_to_start(server_kind, data_dir, empty=False)

    assert re.search(
        r"^the database is of schema 9999, .*: upgrade this node to .* 9999 or later$", said, re.MULTILINE
    )
