"""docs/operations.md: its commands, typed as they stand, and what it says about alerts."""

import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
import yaml

from tests.deploy.compose import ROOT
from tests.postgres import programs
from tests.servers import DEPLOYED, Server, Token, fetch

PAGE = (ROOT / "docs/operations.md").read_text()
EXECUTED = dict(
    re.findall(
        r"<!-- executed by tests/deploy/test_operations_page\.py: (.*?) -->\n```bash\n(.*?)```", PAGE, re.DOTALL
    )
)


def type_in(name: str, server: Server, **environ: str) -> str:
    """Run the commands of that name as an operator would where the server was started; what they printed."""
    # `flask` finds wsgi.py where the proxy was started, the other commands their files in `data` and `backup`.
    script = (
        EXECUTED[name].replace("http://localhost:8080", server.url).replace("flask ", f"flask --app {ROOT}/wsgi.py ")
    )
    programs_of_postgres = f"{programs()}:" if programs() else ""
    path = f"{Path(sys.executable).parent}:{programs_of_postgres}/usr/local/bin:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=server.settings | {"PATH": path} | environ,
        cwd=server.data_dir.parent,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def status_of(server: Server, token: Token) -> int:
    return fetch(server.url, "GET", "/v1/models", dict([token.bearer]))[0]


def test_every_marked_command_is_executed_here() -> None:
    used = set(re.findall(r'type_in\("([^"]+)"', Path(__file__).read_text()))

    assert used == set(EXECUTED)


@pytest.mark.sqlite
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_a_backup_of_sqlite_comes_back_and_what_was_revoked_since_can_be_revoked_again(upstream, tmp_path) -> None:
    data = tmp_path / "data"
    with Server(DEPLOYED, data, UPSTREAM_URL=upstream.url) as server:
        kept, revoked = server.issue_token(), server.issue_token()
        type_in("backup of SQLite", server)
        since = datetime.now(UTC).isoformat()
        server.manage("DELETE", "/tokens", {"id": revoked.id})
        forgotten = server.issue_token()
        assert status_of(server, revoked) == 401
        server.wait_for_records(1)
    type_in("restore of SQLite", server)

    with Server(DEPLOYED, data, UPSTREAM_URL=upstream.url) as server:
        # What the page warns of.
        assert [status_of(server, token) for token in (kept, revoked, forgotten)] == [200, 200, 401]
        type_in("revoking again", server, SINCE=since)
        assert [status_of(server, token) for token in (kept, revoked)] == [200, 401]
        type_in("revoking a project", server, PROJECT=kept.project_id)
        assert status_of(server, kept) == 401


@pytest.mark.postgres
def test_a_backup_of_postgresql_comes_back(upstream, postgres_server, tmp_path) -> None:
    database = postgres_server.new_database()
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url, DATABASE_URL=database) as server:
        kept = server.issue_token()
        type_in("backup of PostgreSQL", server)
        server.manage("DELETE", "/tokens", {"id": kept.id})
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP TABLE tokens CASCADE")
    type_in("restore of PostgreSQL", server)

    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url, DATABASE_URL=database) as server:
        assert status_of(server, kept) == 200


def test_every_alert_has_its_paragraph_and_every_paragraph_its_alert() -> None:
    groups = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    section = PAGE.partition("\n## Alerts\n")[2].partition("\n## ")[0]

    assert alerts == set(re.findall(r"^### (\w+)$", section, re.MULTILINE))


def test_every_link_of_the_page_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", PAGE)

    assert len(links) > 4
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
