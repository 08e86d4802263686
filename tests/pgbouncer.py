"""A PgBouncer of the tests' own in front of their PostgreSQL, in transaction mode."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.ports import free_port
from tests.servers import WAIT_S, wait_for

_CONFIG = """
[databases]
* = host=127.0.0.1 port={server_port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
auth_file =
pool_mode = transaction
default_pool_size = 3
server_reset_query = DISCARD ALL
server_reset_query_always = 1
admin_users = postgres
"""


@contextmanager
def pgbouncer_before(database_url: str) -> Iterator[str]:
    """The URL of a database by way of a PgBouncer that gives every transaction another session, if it can."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("PgBouncer is not installed (Debian: apt-get install pgbouncer)")
    port = free_port()
    place = urlsplit(database_url)
    url = f"postgresql://postgres@127.0.0.1:{port}{place.path}"
    with tempfile.TemporaryDirectory(prefix="llm-proxy-pgbouncer-") as directory:
        config = Path(directory) / "pgbouncer.ini"
        config.write_text(_CONFIG.format(server_port=place.port, port=port))
        Path(directory).chmod(0o755)
        # It refuses to run as root.
        user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        process = subprocess.Popen(
            [program, "-q", str(config)],
            user=user if os.getuid() == 0 else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(lambda: _answers(url))
            yield url
        finally:
            process.terminate()
            process.wait(WAIT_S)


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=10).close()
    except psycopg.OperationalError:
        return False
    return True
