"""
What a machine carries, as docs/scaling.md tells it: calls a second and their CPU, by workers and database; and where
one row of PostgreSQL ends, which every call of a token writes.

    python -m measure.capacity [--seconds 4] [--rounds 3] [--database postgresql://…]

Proxies that are compared are up together and take turns. The database named must be on this machine, empty, and of a
superuser, so that its processes' CPU can be seen; pgbench is looked for beside PostgreSQL's other programs.
"""

from __future__ import annotations

import argparse
import glob
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from database.claims.postgres import CLAIM
from database.engine import background_transaction, open_engine
from measure.issued_tokens import issue_tokens
from measure.suite.json_load import requests_per_s
from measure.suite.server import Server
from measure.suite.stage import proxy
from measure.suite.upstreams import json_upstream

WORKERS = (1, 2)
CONNECTIONS = (1, 4, 16, 64)
TOKENS = 1000
# A claim as pgbench asks for it: of one token, or of any.
_VALUES = {"now": "now()", "window_floor": "now() - interval '1 hour'", "default_limit": str(2**31 - 1)}
_SERVING = """
SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type IN ('client backend', 'walwriter')
"""
_ANY = "(SELECT token FROM numbered WHERE numbered.n = :n)"


def main() -> None:
    """Print the numbers."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=int, default=4, help="of each turn")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--database", default="")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        _tell_of_calls(Path(directory), chosen)
        if chosen.database:
            _tell_of_claims(Path(directory), chosen)


def _tell_of_calls(work: Path, chosen: argparse.Namespace) -> None:
    databases = {"SQLite": "", **({"PostgreSQL": chosen.database} if chosen.database else {})}
    with ExitStack() as up:
        upstream = up.enter_context(json_upstream(work))
        sides = {
            (name, workers): up.enter_context(
                proxy(upstream, work / f"{name}-{workers}", workers=workers, database_url=url)
            )
            for name, url in databases.items()
            for workers in WORKERS
        }
        for side in sides.values():
            requests_per_s(side, work, duration_s=1)
        measured: dict[tuple[str, int], list[tuple[float, float, float]]] = {which: [] for which in sides}
        for _ in range(chosen.rounds):
            for (name, workers), side in sides.items():
                measured[name, workers].append(_turn(side, work, chosen.seconds, databases[name]))
    print(f"{'':24}{'calls/s':>10}{'CPU µs':>9}{'of the database':>18}")
    for (name, workers), turns in measured.items():
        rate, cpu, of_database = (statistics.median(one) for one in zip(*turns, strict=True))
        print(f"{name + ', workers: ' + str(workers):24}{rate:>10,.0f}{cpu:>9.0f}{of_database:>18.0f}")


def _turn(side: Server, work: Path, seconds: int, url: str) -> tuple[float, float, float]:
    """Calls a second, and a call's CPU in µs: of the workers, and of the database's processes."""
    workers_s, database_s = side.cpu_s(), _database_cpu_s(url)
    rate = requests_per_s(side, work, duration_s=seconds)
    calls_of_a_us = rate * seconds / 1e6
    workers_s = side.cpu_s() - workers_s
    spent_s = sum(cpu_s - database_s.get(pid, 0) for pid, cpu_s in _database_cpu_s(url).items())
    return rate, workers_s / calls_of_a_us, spent_s / calls_of_a_us


def _database_cpu_s(url: str) -> dict[int, float]:
    """CPU so far, by pid, of the database's processes that serve, and write for them."""
    if not url:
        return {}
    found = {}
    with _connected(url) as connection:
        for (pid,) in connection.exec_driver_sql(_SERVING):
            with suppress(OSError):  # it may end any time
                found[pid] = Server(0, pids=(pid,)).cpu_s()
    return found


@contextmanager
def _connected(url: str) -> Iterator[Any]:
    engine = open_engine(url)
    with background_transaction(engine) as connection:
        yield connection
    engine.dispose()


def _tell_of_claims(work: Path, chosen: argparse.Namespace) -> None:
    pgbench = shutil.which("pgbench") or next(iter(glob.glob("/usr/lib/postgresql/*/bin/pgbench")), None)
    if not pgbench:
        print("No pgbench, no claims.")
        return
    issue_tokens(chosen.database, work, TOKENS)
    with _connected(chosen.database) as connection:
        connection.exec_driver_sql(
            "CREATE TABLE numbered AS SELECT row_number() OVER (ORDER BY token) AS n, token FROM tokens"
        )
        connection.exec_driver_sql("CREATE UNIQUE INDEX ON numbered (n)")
        (token,) = connection.exec_driver_sql("SELECT min(token) FROM tokens").fetchone() or ("",)
    one, some = work / "one.sql", work / "any.sql"
    statement = " ".join(CLAIM.split())
    one.write_text(statement % {**_VALUES, "token": ":token"})
    some.write_text(f"\\set n random(1, {TOKENS})\n" + statement % {**_VALUES, "token": _ANY})
    print(f"\n{'connections':24}{'one token':>12}{TOKENS:>12,} tokens, claims/s")
    for connections in CONNECTIONS:
        rates = [
            statistics.median(
                _claims_per_s(pgbench, script, token, connections, chosen) for _ in range(chosen.rounds)
            )
            for script in (one, some)
        ]
        print(f"{connections:<24}{rates[0]:>12,.0f}{rates[1]:>12,.0f}")


def _claims_per_s(pgbench: str, script: Path, token: str, connections: int, chosen: argparse.Namespace) -> float:
    options = ["-n", "-M", "prepared", "-c", str(connections), "-T", str(chosen.seconds), "-D", f"token={token}"]
    command = [pgbench, *options, "-f", str(script), chosen.database]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"tps = ([\d.]+)", told)
    assert found, told
    return float(found[1])


if __name__ == "__main__":
    main()
