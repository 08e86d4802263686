"""
Builds the image and runs it, without Docker's engine and without a registry.

    python3 deploy/try_image.py [--base directory]        # as root, on Debian bookworm

The commands are those of the README, word for word, typed at Docker's own client, which talks to podman here. No
base image can be had without a registry, so debootstrap and a CPython 3.12 of pyenv make a stand-in for
`python:3.12-slim-bookworm`, which is given the name of Alpine's image too: the Dockerfile stays as it is, and what
runs is Debian's libc. `--base` keeps the stand-in in a directory, and takes it from there the next time.

Everything is kept in a temporary directory, which goes with the end of the script. Ends with 0 when all was well,
with 1 when something was not, with 3 when a program is missing.
"""

import argparse
import json
import re
import tempfile
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from containers import ROOT, copy_of_the_source, engine, give_up_without, hold, python_image, terminal, try_it, wait

README = ROOT / "README.md"
USER = "10001"
PORT = 8080
STRICT = "--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges"
SECRETS = "-e MANAGEMENT_TOKEN=0123456789abcdef -e ADMIN_USER=admin -e ADMIN_PASSWORD=0123456789abcdef"
CHAT = {"model": "gpt-4", "messages": [{"role": "user", "content": "Hello"}]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="keep the stand-in for the base image in this directory")
    options = parser.parse_args()
    give_up_without(["uuidgen"], [PORT])
    with tempfile.TemporaryDirectory(prefix="llm-proxy-image-") as directory:
        work = Path(directory)
        with engine(work, [python_image(options.base or work)]) as docker:
            _try(work, docker)
    print("the image builds, runs, and stops")


def _try(work: Path, environ: dict[str, str]) -> None:
    type_in = terminal(environ, copy_of_the_source(work))
    build, mkdir, run, benchmark, tests = _readme()
    type_in(build)
    print("  bytes:", type_in("docker image inspect -f '{{.Size}}' llm-proxy"))
    type_in(mkdir)
    _refuses_a_directory_of_somebody_else(type_in, run)
    type_in(f"chown {USER} data")
    _serves(type_in, type_in(run).splitlines()[-1], benchmark)
    _runs_with_nothing_but_its_directory(type_in)
    _refuses_to_make_a_key_for_several_nodes(type_in)
    type_in(tests, timeout_s=2400, is_shown=True)


def _readme() -> list[str]:
    section = README.read_text(encoding="utf-8").partition("## Docker")[2].partition("\n## ")[0]
    commands = "\n".join(re.findall(r"```bash\n(.*?)```", section, re.DOTALL))
    found = re.findall(r"^(?:docker|mkdir) (?:.*\\\n)*.*$", commands, re.MULTILINE)
    wanted = ("docker build -t", "mkdir data", "docker run -d", "docker run --rm", "docker build --target test")
    return [next(command for command in found if command.startswith(start)) for start in wanted]


def _refuses_a_directory_of_somebody_else(type_in: Callable[..., str], run: str) -> None:
    name = type_in(run).splitlines()[-1]
    code = type_in(f"docker wait {name}")
    said = type_in(f"docker logs {name}")
    hold(code != "0" and f"chown it to {USER}" in said, f"a directory that cannot be written is named: {said}")


def _serves(type_in: Callable[..., str], name: str, benchmark: str) -> None:
    """The README's container: a call through the published port, and everything around it."""
    wait(_is_ready)
    hold(type_in(f"docker exec {name} id -u") == USER, "runs as the image's user")
    hold(type_in("stat -c '%a %u' data/encryption_key") == f"600 {USER}", "made its encryption key")
    hold("easy to guess" in type_in(f"docker logs {name}"), "warned of the weak password")
    hold(json.loads(_state(type_in, name))["Status"] == "running", "is running")
    type_in(f"podman healthcheck run {name}")
    type_in(f"docker exec -d {name} python -m mock_openai --port 9000")
    mock = f"docker exec {name} python -c 'import socket; socket.create_connection((\"127.0.0.1\", 9000))'"
    wait(lambda: "refused" not in type_in(f"{mock} 2>&1 || true"))
    token = _issue(type_in(f"docker exec {name} printenv MANAGEMENT_TOKEN"))
    status, answer = _call("POST", "/v1/chat/completions", token, CHAT)
    hold((status, answer["object"]) == (200, "chat.completion"), "passes a call on")
    log = Path(type_in("realpath data/api_logs.jsonl"))
    wait(log.read_text, for_what="the record of the call")
    record = json.loads(log.read_text().splitlines()[0])
    hold(record["outcome"] == "complete", "recorded it")
    _benchmarks(type_in, name, benchmark.replace("<withering-token>", token))
    type_in(f"docker stop -t 30 {name}")
    state = json.loads(_state(type_in, name))
    hold(state["ExitCode"] == 0, f"stopped on TERM, with nothing left to be killed: {state}")


def _benchmarks(type_in: Callable[..., str], name: str, benchmark: str) -> None:
    """The README's benchmark. On Linux, the host has to be given its name."""
    host = type_in(f"docker inspect -f '{{{{.NetworkSettings.Gateway}}}}' {name}")
    said = type_in(benchmark.replace("--rm", f"--rm --add-host host.docker.internal:{host}", 1))
    print(said)
    served = type_in('grep -c \'"outcome":"complete"\' data/api_logs.jsonl')
    hold(int(served) > 100, f"took every call of the benchmark: {served}")


def _is_ready() -> bool:
    with suppress(OSError):
        return _call("GET", "/readyz", "")[0] == 200
    return False


def _state(type_in: Callable[..., str], name: str) -> str:
    return type_in(f"docker inspect -f '{{{{json .State}}}}' {name}")


def _issue(management_token: str) -> str:
    """A token of a project whose upstream is the mock within the container."""
    fields = {"name": "tried", "openai_api_key": "sk-of-the-trial-0123456789", "base_url": "http://127.0.0.1:9000"}
    _, project = _call("POST", "/manage/projects", management_token, fields)
    wanted = {"project_id": project["id"], "duration_hours": 1}
    return str(_call("POST", "/manage/tokens", management_token, wanted)[1]["token"])


def _call(method: str, path: str, bearer: str, body: object = None) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.status, json.loads(response.read() or b"{}")


def _runs_with_nothing_but_its_directory(type_in: Callable[..., str]) -> None:
    name = type_in(f"docker run -d {STRICT} -p {PORT}:{PORT} -v kept:/app/data {SECRETS} llm-proxy").splitlines()[-1]
    wait(_is_ready)
    type_in(f"docker stop -t 30 {name}")
    hold(json.loads(_state(type_in, name))["ExitCode"] == 0, "runs read-only, without capabilities, on a volume")


def _refuses_to_make_a_key_for_several_nodes(type_in: Callable[..., str]) -> None:
    several = f"docker run {SECRETS} -e DATABASE_URL=postgresql://db/proxy llm-proxy"
    said = type_in(f"{several} 2>&1 || true")
    hold("ENCRYPTION_KEY: is not set" in said, f"refuses to start without a key on PostgreSQL: {said}")


if __name__ == "__main__":
    try_it(main)
