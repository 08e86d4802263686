"""The database role of compose.yaml: enough for the proxy, and no more."""

import base64
import hashlib
import hmac
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.deploy.compose import ROOT
from tests.postgres import shared_postgres
from tests.servers import DEPLOYED, Server

pytestmark = [pytest.mark.postgres, pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not installed")]
PASSWORD = "it's a 'password' of \\ the tests"


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """That of a PostgreSQL on which the script has run as PostgreSQL's image runs it."""
    port = shared_postgres().port
    secret = tmp_path / "database_password"
    secret.write_text(PASSWORD + "\n")
    place = {"PGHOST": "127.0.0.1", "PGPORT": str(port)}
    variables = {"POSTGRES_USER": "postgres", "DATABASE_PASSWORD_FILE": str(secret)}
    try:
        subprocess.run([ROOT / "deploy/postgres/role.sh"], env=os.environ | place | variables, check=True)  # noqa: TID251
        yield port
    finally:
        with psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres", autocommit=True) as connection:
            connection.execute("DROP DATABASE IF EXISTS llm_proxy WITH (FORCE)")
            connection.execute("DROP ROLE IF EXISTS llm_proxy")


def test_the_proxy_works_with_a_role_that_is_no_superuser(port: int, tmp_path: Path) -> None:
    url = f"postgresql://llm_proxy@127.0.0.1:{port}/llm_proxy"
    with Server(DEPLOYED, tmp_path / "data", DATABASE_URL=url) as server:
        assert server.issue_token().secret
    may = "rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls"
    with psycopg.connect(url) as connection:
        assert connection.execute(f"SELECT {may} FROM pg_roles WHERE rolname = current_user").fetchone() == (False,)


def test_the_role_has_the_password_of_the_secret(port: int) -> None:
    with psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres") as connection:
        [stored] = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'llm_proxy'").fetchone()

    method, rounds_and_salt, keys = stored.split("$")
    rounds, salt = rounds_and_salt.split(":")
    salted = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), base64.b64decode(salt), int(rounds))
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    assert method == "SCRAM-SHA-256" and base64.b64encode(stored_key).decode() == keys.split(":")[0]
