"""
Starts compose.yaml as it stands, and shows that it works: without Docker's engine and without a registry.

    python3 deploy/try_compose.py [--base directory]        # as root, on Debian bookworm

The commands are those that compose.yaml names, word for word. Where Docker's client has no compose plugin, Debian's
docker-compose 1.29 stands in for it. The engine is podman; its health checks are run by this script, since podman
leaves them to systemd. The images that compose.yaml names are stand-ins: Debian's nginx, PostgreSQL and Prometheus
behind what it relies on in the official ones (stand_ins/Dockerfile). `--base` keeps their trees in a directory, and
takes them from there the next time.

So two things are not the real ones. The libc is Debian's. And of Grafana there is only the place for what is mounted
into it: the dashboard's queries are asked of Prometheus from there, but nobody draws them.

Everything is kept in a temporary directory, which goes with the end of the script; only this machine is spoken to.
Ends with 0 when all was well, with 1 when something was not, with 3 when a program is missing.
"""

import argparse
import base64
import http.client
import json
import re
import shutil
import ssl
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from containers import (
    ROOT,
    copy_of_the_source,
    engine,
    give_up_without,
    health_checks,
    hold,
    python_image,
    services_image,
    shell,
    terminal,
    try_it,
    wait,
)

PORTS = (443, 8443, 3000)
# What is for operators is on a listener of its own, outside and inside.
OPS = ("/admin", "/manage", "/metrics")
PLUGINS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
PROXIES = ("proxy-1", "proxy-2")
UPSTREAM = "http://upstream:9000"
CHAT = {"model": "gpt-4", "messages": [{"role": "user", "content": "Hello"}]}
CALLERS = 3
LOAD_S = 300  # no load lasts longer, whatever becomes of the restart
# Docker's client asks a plugin what it is, and hands it a command line that begins with its own name.
SHIM = """#!/bin/sh
if [ "$1" = docker-cli-plugin-metadata ]; then
  echo '{"SchemaVersion": "0.1.0", "Vendor": "Debian", "Version": "1.29"}'
  exit
fi
shift
exec docker-compose "$@"
"""


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Site:
    """What compose.yaml has started: from outside through nginx, and from inside through Docker's client."""

    def __init__(self, type_in: Callable[..., str], environ: dict[str, str], source: Path) -> None:
        self.type_in = type_in
        self._environ = environ
        self._source = source

    def secret(self, name: str) -> str:
        return (self._source / "secrets" / name).read_text().strip()

    def connect(self, path: str = "/v1/") -> http.client.HTTPSConnection:
        """Where a path is served; trusts the certificate that make_secrets.py made, and no other."""
        port = 8443 if path.startswith(OPS) else 443
        context = ssl.create_default_context(cafile=str(self._source / "secrets/tls_certificate"))
        return http.client.HTTPSConnection("localhost", port, context=context, timeout=60)

    def call(
        self, method: str, path: str, bearer: str, body: dict[str, Any] | str | None = None, **headers: str
    ) -> Answer:
        connection = self.connect(path)
        try:
            sent = body if isinstance(body, str | None) else json.dumps(body)
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            basic = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
            connection.request(method, path, sent, basic | named)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def chat(self, token: str) -> Answer:
        return self.call("POST", "/v1/chat/completions", token, CHAT)

    def manage(self, path: str, body: dict[str, Any]) -> Any:
        return self.call("POST", f"/manage/{path}", self.secret("management_token"), body).json

    def issue(self, project: str, **limits: int) -> str:
        return str(self.manage("tokens", {"project_id": project, "duration_hours": 1} | limits)["token"])

    def container(self, service: str) -> str:
        return self.shell(f"docker compose ps -q {service}")

    def shell(self, command: str) -> str:
        """Like `type_in`, for looking, without showing it."""
        return shell(command, environ=self._environ, cwd=self._source)

    def health(self, service: str) -> str:
        return self.shell(f"docker inspect -f '{{{{.State.Health.Status}}}}' {self.container(service)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="keep the stand-ins' trees in this directory")
    options = parser.parse_args()
    has_plugin = _has_compose_plugin()
    programs = ["openssl"] + ([] if has_plugin else ["docker-compose"])
    has_names = any((place / "dnsname").exists() for place in PLUGINS)
    lacking = [] if has_names else ["Debian's golang-github-containernetworking-plugin-dnsname"]
    give_up_without(programs, PORTS, lacking)
    with tempfile.TemporaryDirectory(prefix="llm-proxy-compose-") as directory:
        work = Path(directory)
        kept = options.base or work
        with engine(work, [python_image(kept), services_image(kept)]) as docker:
            if not has_plugin:
                _stand_in_for_the_plugin(work)
            with health_checks(docker):
                _try(work, docker | {"UPSTREAM_URL": UPSTREAM})
    print("compose.yaml starts, serves, restarts, and stops")


def _has_compose_plugin() -> bool:
    if shutil.which("docker"):
        with suppress(RuntimeError):
            return bool(shell("HOME=/ docker compose version"))  # A plugin of this user alone is not there later.
    return False


def _stand_in_for_the_plugin(work: Path) -> None:
    plugin = work / ".docker/cli-plugins/docker-compose"
    plugin.parent.mkdir(parents=True)
    plugin.write_text(SHIM)
    plugin.chmod(0o755)


def _try(work: Path, environ: dict[str, str]) -> None:
    source = copy_of_the_source(work)
    type_in = terminal(environ, source)
    for service, image in _images().items():
        type_in(f"docker build --target {service} -t {image} deploy/stand_ins")
    site = Site(type_in, environ, source)
    make_secrets, up, *restart = _commands()
    type_in(make_secrets)
    began = time.monotonic()
    print(type_in(f"{up} 2>&1 | tail -n 8", timeout_s=1800))
    wait(lambda: _is_ready(site), for_what="an answer of a ready proxy through nginx")
    hold(True, f"is ready behind TLS, {time.monotonic() - began:.0f} s after the command")
    with _upstream(site):
        project = site.manage("projects", {"name": "tried", "openai_api_key": "sk-of-the-trial-0123456789"})["id"]
        token = site.issue(project, rate_limit=100_000)
        _serves(site, token)
        _streams(site, token)
        _shows_admin_pages(site)
        _is_one_service(site, project)
        _is_watched(site)
        _restarts_without_a_loss(site, token, restart)
        _outlives_its_database(site, token)
    _stops(site)


def _images() -> dict[str, str]:
    """What compose.yaml takes from elsewhere, by the service that it is for."""
    return dict(re.findall(r"^  (\S+):\n    image: (\S+)$", (ROOT / "compose.yaml").read_text(), re.MULTILINE))


def _commands() -> list[str]:
    """The commands in the head of compose.yaml."""
    head = (ROOT / "compose.yaml").read_text().partition("\n\nx-proxy")[0]
    return re.findall(r"^#   (\S.*?)(?: +#.*)?$", head, re.MULTILINE)


def _is_ready(site: Site) -> bool:
    with suppress(OSError, http.client.HTTPException):
        return site.call("GET", "/readyz", "").status == 200
    return False


@contextmanager
def _upstream(site: Site) -> Iterator[None]:
    """The mock upstream, on compose's own network."""
    network = site.shell(
        "docker inspect -f '{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}' "
        + site.container("proxy-1")
    )
    mock = "python -m mock_openai --host 0.0.0.0 --port 9000"
    site.type_in(f"docker run -d --name upstream --network {network} --network-alias upstream llm-proxy {mock}")
    wait(lambda: "listening" in site.shell("docker logs upstream 2>&1"), for_what="the start of the mock upstream")
    try:
        yield
    finally:
        site.shell("docker rm -fv upstream")


def _serves(site: Site, token: str) -> None:
    answer = site.chat(token)
    hold((answer.status, answer.json["object"]) == (200, "chat.completion"), f"passes a call on: {answer}")
    refused = site.chat("0b7c0000-0000-4000-8000-000000000000")
    hold(refused.status == 401, f"refuses a token that it never issued: {refused}")
    hold(site.call("GET", "/metrics", site.secret("metrics_token")).status == 404, "keeps its metrics inside")


def _streams(site: Site, token: str) -> None:
    """The upstream may send an event only when the one before has been read here."""
    connection = site.connect()
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "x-mock-gate": "tried",
        "x-mock-events": "6",
    }
    connection.request("POST", "/v1/chat/completions", json.dumps(CHAT | {"stream": True}), headers)
    response = connection.getresponse()
    let_one_pass = (
        "import urllib.request as u; u.urlopen(u.Request('http://127.0.0.1:9000/__mock__/gate/tried', method='POST'))"
    )
    events = 0
    while (line := response.readline()) not in (b"", b"data: [DONE]\n"):
        if line == b"\n":
            events += 1
            site.shell(f'docker exec upstream python -c "{let_one_pass}"')
    connection.close()
    hold(events > 6, f"passes server-sent events one by one: {events}")


def _shows_admin_pages(site: Site) -> None:
    hold(site.call("GET", "/admin/", "").status == 401, "asks administrators for their password")
    basic = "Basic " + base64.b64encode(f"admin:{site.secret('admin_password')}".encode()).decode()
    page = site.call("GET", "/admin/projects/new", "", Authorization=basic)
    hold(page.status == 200, f"shows them a form: {page.status}")
    cookie = page.headers["Set-Cookie"] or ""
    hold("; Secure" in cookie, f"marks the cookie for TLS: {cookie}")
    fields = dict(re.findall(r'name="(csrf_token|nonce)"[^>]* value="([^"]*)"', page.body.decode()))
    form = urlencode(fields | {"name": "from a form", "openai_api_key": "sk-of-a-form-0123456789"})
    sent = {
        "Accept": "text/html",
        "Authorization": basic,
        "Cookie": cookie.partition(";")[0],
        "Origin": "https://localhost:8443",
    }
    sent |= {
        "Referer": "https://localhost:8443/admin/projects/new",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    done = site.call("POST", "/admin/projects", "", form, **sent)
    hold(done.status == 303, f"takes the form that a browser sends back: {done.status}, {done.body[:2000]!r}")
    page = site.call("GET", done.headers["Location"].removeprefix("https://localhost:8443"), "", Authorization=basic)
    hold(page.status == 200 and b"from a form" in page.body, f"shows them the project: {done.headers}")


def _is_one_service(site: Site, project: str) -> None:
    """Either proxy knows what was done through the other, and both count as one."""
    one, other = PROXIES
    make = {"project_id": project, "duration_hours": 1}
    token = _directly(site, one, "POST", "/manage/tokens", site.secret("management_token"), make)["token"]
    models = _directly(site, other, "GET", "/v1/models", token)
    hold(models["object"] == "list", "takes a token at one proxy that the other has issued")
    limited = site.issue(project, rate_limit=40)
    statuses = Counter(status for status in _in_parallel(6, lambda: [site.chat(limited).status for _ in range(10)]))
    hold(statuses == {200: 40, 429: 20}, f"lets 40 of 60 calls pass where 40 an hour are allowed: {statuses}")
    served = {name: _records(site, name) for name in PROXIES}
    hold(min(served.values()) >= 20, f"spreads calls over both proxies: {served}")


def _directly(site: Site, proxy: str, method: str, path: str, bearer: str, body: object = None) -> Any:
    """What one proxy answers to a call from within its container."""
    sent = f"--data '{json.dumps(body)}'" if body else ""
    ask = f"curl -sS -X {method} -H 'Authorization: Bearer {bearer}' -H 'Content-Type: application/json' {sent}"
    port = 9090 if path.startswith(OPS) else 8080
    return json.loads(site.shell(f"docker exec {site.container('grafana')} {ask} http://{proxy}:{port}{path}"))


def _records(site: Site, proxy: str) -> int:
    return int(site.shell(f"docker exec {site.container(proxy)} sh -c 'cat data/api_logs*.jsonl | wc -l'"))


def _in_parallel(count: int, work: Callable[[], list[int]]) -> list[int]:
    results: list[list[int]] = []
    threads = [threading.Thread(target=lambda: results.append(work())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [result for part in results for result in part]


def _is_watched(site: Site) -> None:
    """Prometheus asks both proxies and knows the alerts; the dashboard's queries are ones that it understands."""
    ask = _prometheus(site)
    expected = {f"{name}:9090" for name in PROXIES}
    # One that may be from before the calls, and two: a rate needs a difference.
    seen: dict[str, set[str]] = {proxy: set() for proxy in expected}
    wait(lambda: _scrapes(ask, seen) >= 3, timeout_s=120, for_what="a third scrape of both proxies")
    hold(set(seen) == expected, f"is scraped by Prometheus, both proxies of it: {seen}")
    [group] = ask("rules")["groups"]
    alerts = re.findall(r"- alert: (\w+)", (ROOT / "deploy/prometheus/alerts.yml").read_text())
    hold([rule["name"] for rule in group["rules"]] == alerts, f"has its {len(alerts)} alerts loaded")
    workers = ask("query?query=llmproxy_workers")["result"]
    hold({series["metric"]["instance"] for series in workers} == expected, f"tells its workers: {workers}")
    dashboard = ROOT / "deploy/grafana/llm-proxy.json"
    mounted = site.shell("curl -sS http://127.0.0.1:3000/dashboards/llm-proxy.json")
    hold(json.loads(mounted) == json.loads(dashboard.read_text()), "has its dashboard where Grafana looks for it")
    queries = re.findall(r'"expr": "((?:[^"\\]|\\.)*)"', dashboard.read_text())
    told = sum(bool(ask(_query(json.loads(f'"{query}"')))["result"]) for query in queries)
    hold(told > len(queries) / 2, f"answers the dashboard's {len(queries)} queries, {told} of them with figures")


def _prometheus(site: Site) -> Callable[[str], Any]:
    """A function that asks Prometheus as Grafana would: from its place, at the address that it is told."""
    grafana = site.container("grafana")
    source = site.shell(f"docker exec {grafana} cat /etc/grafana/provisioning/datasources/prometheus.yaml")
    [address] = re.findall(r"url: (\S+)", source)

    def ask(question: str) -> Any:
        said = site.shell(f"docker exec {grafana} curl -sS -g --max-time 20 '{address}/api/v1/{question}'")
        answer = json.loads(said)
        if answer["status"] != "success":
            raise RuntimeError(f"{question}: {answer}")
        return answer["data"]

    return ask


def _scrapes(ask: Callable[[str], Any], seen: dict[str, set[str]]) -> int:
    """Add the times of the last scrapes to those that were seen; how many there are of the target with the fewest."""
    for target in ask("targets")["activeTargets"]:
        if target["health"] == "up":
            seen.setdefault(target["labels"]["instance"], set()).add(target["lastScrape"])
    return min(map(len, seen.values()))


def _query(expression: str) -> str:
    filled = expression.replace("$instance", ".*").replace("$__rate_interval", "1m")
    return "query?query=" + quote(filled)


def _restarts_without_a_loss(site: Site, token: str, commands: list[str]) -> None:
    """An upgrade as compose.yaml describes it, under load."""
    site.shell("echo >> app.py")  # New code: without a change nothing would be replaced.
    replaced = {name: site.container(name) for name in PROXIES}
    ended = threading.Event()
    statuses: list[int] = []
    load = threading.Thread(target=lambda: statuses.extend(_in_parallel(CALLERS, lambda: _load(site, token, ended))))
    load.start()
    try:
        for command in commands:
            site.type_in(command, timeout_s=1800)
            wait(lambda: all(site.health(name) == "healthy" for name in PROXIES), 120, for_what="the proxies' health")
    finally:
        ended.set()
        load.join()
    hold(all(site.container(name) != before for name, before in replaced.items()), "replaces both proxies")
    hold(set(statuses) == {200}, f"loses none of {len(statuses)} calls meanwhile: {Counter(statuses)}")


def _load(site: Site, token: str, ended: threading.Event) -> list[int]:
    """Calls and streams in turn, some ten a second; what became of each. 0 is for an answer that broke off."""
    statuses: list[int] = []
    deadline = time.monotonic() + LOAD_S
    while not ended.wait(0.1) and time.monotonic() < deadline:
        stream = bool(len(statuses) % 2)
        try:
            body = CHAT | {"stream": stream}
            answer = site.call("POST", "/v1/chat/completions", token, body, x_mock_gap_ms="50")
            is_whole = answer.body.endswith(b"data: [DONE]\n\n") if stream else bool(answer.json)
            statuses.append(answer.status if is_whole or answer.status != 200 else 0)
        except (OSError, ValueError, http.client.HTTPException):
            statuses.append(0)
    return statuses


def _outlives_its_database(site: Site, token: str) -> None:
    site.type_in("docker compose stop postgres")
    answer = site.chat(token)
    hold(answer.status == 503 and "retry-after" in answer.headers, f"puts calls off without its database: {answer}")
    site.type_in("docker compose start postgres")
    wait(lambda: site.chat(token).status == 200, for_what="a call after the database's return")
    hold(True, "serves again when it is back")


def _stops(site: Site) -> None:
    names = (*PROXIES, *_images())
    containers = {name: site.container(name) for name in names}
    site.type_in("docker compose stop")
    codes = {
        name: site.shell(f"docker inspect -f '{{{{.State.ExitCode}}}}' {container}")
        for name, container in containers.items()
    }
    hold(set(codes.values()) == {"0"}, f"stops with nothing left to be killed: {codes}")
    site.type_in("docker compose down --volumes")
    left = site.shell("docker ps -aq; docker volume ls -q; docker network ls -q --filter name=llm-proxy")
    hold(not left, f"leaves no container, volume or network behind: {left}")


if __name__ == "__main__":
    try_it(main)
