"""
What the admin pages cost: fills a proxy with records and tokens, and times every page.

    python -m measure.admin_pages --records 1000000 --tokens 10000

Each page is asked for in this process, without a network; the slowest of several responses is told besides the
median. The seeded data directory can be kept and used again with --data-dir.
"""

from __future__ import annotations

import argparse
import base64
import re
import statistics
import tempfile
import time
from pathlib import Path

from flask import Flask
from flask.testing import FlaskClient

import config
from app import create_app
from database.schema import migrate_to_head
from llmproxy.admission import utc_now
from measure.admin_seed import seed
from services import Services

PASSWORD = "admin-password-of-the-benchmark"
LIMIT_MS = 150
HEADERS = {"Authorization": "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode(), "Accept": "text/html"}


def main() -> None:
    """Seed, measure, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--records", type=int, default=1_000_000)
    options.add_argument("--tokens", type=int, default=10_000)
    options.add_argument("--repeat", type=int, default=9)
    options.add_argument("--data-dir", type=Path)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as made:
        measure(_filled(chosen.data_dir or Path(made), chosen.records, chosen.tokens), chosen.repeat)


def _filled(data_dir: Path, records: int, tokens: int) -> Flask:
    settings = config.load({"DATA_DIR": str(data_dir), "ADMIN_PASSWORD": PASSWORD}, embedded=True)
    app = create_app(settings)
    migrate_to_head(Services.of(app).engine, data_dir)
    if not settings.log_path.exists():
        started = time.perf_counter()
        seed(app, tokens=tokens, records=records, now=utc_now())
        print(f"seeded {records:,} records and {tokens:,} tokens in {time.perf_counter() - started:.0f} s")
    return app


def measure(app: Flask, repeat: int) -> None:
    """Print each page's time in milliseconds."""
    client = app.test_client()
    print(f"{'page':<58} {'median':>8} {'slowest':>8} {'KiB':>6}")
    for name, path in _pages(client).items():
        times, size = _times(client, path, repeat)
        slow = "  over the limit" if max(times) > LIMIT_MS else ""
        print(f"{name:<58} {statistics.median(times):8.1f} {max(times):8.1f} {size / 1024:6.0f}{slow}")


def _times(client: FlaskClient, path: str, repeat: int) -> tuple[list[float], int]:
    times, size = [], 0
    for _ in range(repeat):
        started = time.perf_counter()
        response = client.get(path, headers=HEADERS)
        times.append((time.perf_counter() - started) * 1000)
        assert response.status_code == 200, (path, response.status)
        size = len(response.data)
    return times, size


def _pages(client: FlaskClient) -> dict[str, str]:
    projects = client.get("/admin/projects", headers=HEADERS).text
    tokens = client.get("/admin/tokens", headers=HEADERS).text
    requests = client.get("/admin/requests", headers=HEADERS).text
    project = re.findall(r'href="(/admin/projects/[0-9a-f-]{36})"', projects)[0]
    token = re.findall(r'href="(/admin/tokens/[0-9a-f-]{36})"', tokens)[0]
    record = re.findall(r'href="(/admin/requests/[^"]+)"', requests)[-1].replace("&amp;", "&")
    older = re.findall(r'href="(/admin/requests\?before=[^"]+)"', requests)[0].replace("&amp;", "&")
    return {
        "overview, 24 hours": "/admin/",
        "overview, 7 days": "/admin/?span=7d",
        "overview, 30 days": "/admin/?span=30d",
        "projects": "/admin/projects",
        "projects, costliest first": "/admin/projects?order=cost",
        "one project": project,
        "project, before it is deleted": f"{project}/delete",
        "tokens, newest": "/admin/tokens",
        "tokens, last page": "/admin/tokens?page=200",
        "tokens, live, withering first": "/admin/tokens?state=live&order=withering",
        "tokens, over the limit": "/admin/tokens?state=limited",
        "tokens, most requests first": "/admin/tokens?order=requests",
        "tokens, costliest first": "/admin/tokens?order=cost",
        "tokens, by label": "/admin/tokens?q=maria",
        "one token": token,
        "new token": "/admin/tokens/new",
        "requests, latest": "/admin/requests",
        "requests, older": older,
        "requests, one token": f"/admin/requests?token={token.rsplit('/', 1)[1]}",
        "requests, refused": "/admin/requests?outcome=refused",
        "requests, 504": "/admin/requests?status=504",
        "requests, a model": "/admin/requests?model=o4",
        "requests, a model that nobody used": "/admin/requests?model=nobody-used-this",
        "requests, two filters that never meet": "/admin/requests?status=2xx&outcome=refused",
        "requests, last hour": "/admin/requests?span=1h",
        "requests, last 30 days": "/admin/requests?span=30d",
        "requests, slowest of all": "/admin/requests?order=slowest",
        "requests, slowest of 30 days": "/admin/requests?order=slowest&span=30d",
        "requests, slowest of 24 hours": "/admin/requests?order=slowest&span=24h",
        "requests, slowest that failed": "/admin/requests?order=slowest&outcome=failed",
        "requests, slowest of one project": f"/admin/requests?order=slowest&project_id={project.rsplit('/', 1)[1]}",
        "requests, slowest of one token": f"/admin/requests?order=slowest&token={token.rsplit('/', 1)[1]}",
        "requests, slowest of a model": "/admin/requests?order=slowest&model=o4",
        "requests, slowest of a model that nobody used": "/admin/requests?order=slowest&model=nobody-used-this",
        "requests, an address": "/admin/requests?address=192.0.2.77",
        "requests, an address, 30 days": "/admin/requests?span=30d&address=192.0.2.77",
        "requests, an address that nobody has, 30 days": "/admin/requests?span=30d&address=203.0.113.9",
        "requests, an error code, 30 days": "/admin/requests?span=30d&code=upstream_timeout",
        "one request": record,
        "live view": "/admin/requests/tail",
        "audit": "/admin/audit",
        "health": "/admin/health",
    }


if __name__ == "__main__":
    main()
