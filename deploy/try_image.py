"""
Builds the image and runs it, without Docker's engine and without a registry.

    python3 deploy/try_image.py [--base stand-in.tar]        # as root, on Debian bookworm

The commands are those of the README, word for word, typed at Docker's own client, which talks to podman here. No
base image can be had without a registry, so debootstrap and a CPython 3.12 of pyenv make a stand-in for
`python:3.12-slim-bookworm`, which is given the name of Alpine's image too: the Dockerfile stays as it is, and what
runs is Debian's libc. `--base` keeps the stand-in in a file, and takes it from there the next time.

Everything is kept in a temporary directory, which goes with the end of the script. Ends with 0 when all was well,
with 1 when something was not, with 3 when a program is missing.
"""

import argparse
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PROGRAMS = ("debootstrap", "docker", "git", "ip", "podman", "runc", "tar", "uuidgen")
BASES = ("python:3.12-alpine", "python:3.12-slim-bookworm")
PACKAGES = (
    "ca-certificates,netbase,tzdata,libssl3,libsqlite3-0,libffi8,libreadline8,libncursesw6,zlib1g,libbz2-1.0,liblzma5,"
    "libuuid1,libexpat1,libnsl2,libtirpc3,libgdbm6"
)
USER = "10001"
BRIDGE = Path("/sys/class/net/cni-podman0")  # podman makes it, and leaves it
PORT = 8080
STRICT = "--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges"
SECRETS = "-e MANAGEMENT_TOKEN=0123456789abcdef -e ADMIN_USER=admin -e ADMIN_PASSWORD=0123456789abcdef"
CHAT = {"model": "gpt-4", "messages": [{"role": "user", "content": "Hello"}]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="keep the stand-in for the base image here")
    options = parser.parse_args()
    if lacking := _lacking():
        print("not tried, for want of: " + ", ".join(lacking))
        sys.exit(3)
    with tempfile.TemporaryDirectory(prefix="llm-proxy-image-") as directory:
        work = Path(directory)
        base = _base(work, options.base)
        with _engine(work, base) as docker:
            _try(work, docker)
    print("the image builds, runs, and stops")


def _lacking() -> list[str]:
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    lacking += [] if os.getuid() == 0 else ["root"]
    lacking += [] if _python() else ["a CPython 3.12 of pyenv"]
    with suppress(OSError), socket.create_connection(("127.0.0.1", PORT), timeout=2):
        lacking.append(f"port {PORT}, which the README's command publishes")
    return lacking


def _python() -> Path | None:
    found = sorted(Path("~/.pyenv/versions").expanduser().glob("3.12.*/bin/python3.12"))
    return found[-1].parent.parent if found else None


def _run(command: str, *, environ: dict[str, str] | None = None, cwd: Path = ROOT, timeout_s: float = 600) -> str:
    """What a command printed. Raises RuntimeError with all of it when it failed."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{command}\nended with {done.returncode}:\n{done.stdout}")
    return done.stdout.strip()


# The stand-in for the base image


def _base(work: Path, kept: Path | None) -> Path:
    if kept and kept.exists():
        return kept
    print("making the stand-in for the base image")
    tree, tar = work / "base", kept or work / "base.tar"
    _run(f"debootstrap --variant=minbase --include={PACKAGES} bookworm {tree}")
    _add_python(tree)
    _run(f"tar -C {tree} -cf {tar} . && rm -rf {tree}")
    return tar


def _add_python(tree: Path) -> None:
    """CPython as Docker's own images have it: under /usr/local, with pip."""
    python, local = _python(), tree / "usr/local"
    _run(f"""
        cp -a {python}/bin/python3.12 {local}/bin/
        ln -s python3.12 {local}/bin/python3
        ln -s python3 {local}/bin/python
        cp -a {python}/lib/libpython3.12.so* {local}/lib/ 2>/dev/null || true
        mkdir -p {local}/lib/python3.12/site-packages
        tar -C {python}/lib/python3.12 --exclude=site-packages --exclude=test --exclude=__pycache__ -cf - . |
            tar -C {local}/lib/python3.12 -xf -
        # Where TLS is intercepted, the machine's own authorities are needed.
        cp -L /etc/ssl/certs/ca-certificates.crt {tree}/etc/ssl/certs/
        printf '[global]\\ncert = /etc/ssl/certs/ca-certificates.crt\\n' > {tree}/etc/pip.conf
        chroot {tree} ldconfig
        chroot {tree} python3 -m ensurepip
        ln -sf pip3 {local}/bin/pip
    """)


# The engine: podman's service, with all its storage in the temporary directory


@contextmanager
def _engine(work: Path, base: Path) -> Iterator[dict[str, str]]:
    """A running service that has the base images; the environment for Docker's client."""
    environ = _configure(work)
    had_bridge = BRIDGE.exists()
    for name in BASES:
        changes = "--change 'CMD [\"python3\"]' --change 'ENV PATH=/usr/local/bin:/usr/bin:/bin'"
        _run(f"podman import -q {changes} {base} localhost/{name}", environ=environ)
    address = f"unix://{work}/podman.sock"
    with (work / "podman.log").open("wb") as log:
        service = subprocess.Popen(
            ["podman", "system", "service", "-t", "0", address], env=environ, stdout=log, stderr=log
        )
    try:
        _wait((work / "podman.sock").exists)
        yield environ | {"DOCKER_HOST": address, "DOCKER_BUILDKIT": "0"}
    finally:
        with suppress(RuntimeError, subprocess.TimeoutExpired):
            _run("podman rm -af -t 1 && podman system reset -f", environ=environ, timeout_s=60)
        if BRIDGE.exists() and not had_bridge:
            _run(f"ip link delete {BRIDGE.name}")
        service.terminate()
        service.wait(10)


def _configure(work: Path) -> dict[str, str]:
    (work / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{work}/graph"\nrunroot = "{work}/run"\n'
    )
    # Without CAP_SYS_RESOURCE nobody gets more than this process may have.
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    (work / "containers.conf").write_text(
        f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc=4096:4096"]\n'
        f'[network]\nnetwork_config_dir = "{work}/networks"\n'
        '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
    )
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(work),
        "CONTAINERS_CONF": str(work / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(work / "storage.conf"),
        "BUILDAH_ISOLATION": "chroot",
    }


def _wait(look: Callable[[], object], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen")
        time.sleep(0.1)


# What is tried


def _try(work: Path, environ: dict[str, str]) -> None:
    source = work / "llm-proxy"
    files = "git ls-files -z --cached --others --exclude-standard"
    _run(f"mkdir {source} && {files} | tar --null -T - -cf - | tar -C {source} -xf -")

    def type_in(command: str, timeout_s: float = 600) -> str:
        print("$ " + command.replace("\n", "\n  "))
        return _run(command, environ=environ, cwd=source, timeout_s=timeout_s)

    build, mkdir, run, benchmark, tests = _readme()
    type_in(build)
    print("  bytes:", type_in("docker image inspect -f '{{.Size}}' llm-proxy"))
    type_in(mkdir)
    _refuses_a_directory_of_somebody_else(type_in, run)
    type_in(f"chown {USER} data")
    _serves(type_in, type_in(run).splitlines()[-1], benchmark)
    _runs_with_nothing_but_its_directory(type_in)
    _refuses_to_make_a_key_for_several_nodes(type_in)
    print(type_in(tests, timeout_s=1500))


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
    _hold(code != "0" and f"chown it to {USER}" in said, f"a directory that cannot be written is named: {said}")


def _serves(type_in: Callable[..., str], name: str, benchmark: str) -> None:
    """The README's container: a call through the published port, and everything around it."""
    _wait(_is_ready)
    _hold(type_in(f"docker exec {name} id -u") == USER, "runs as the image's user")
    _hold(type_in("stat -c '%a %u' data/encryption_key") == f"600 {USER}", "made its encryption key")
    _hold("easy to guess" in type_in(f"docker logs {name}"), "warned of the weak password")
    _hold(json.loads(_state(type_in, name))["Status"] == "running", "is running")
    type_in(f"podman healthcheck run {name}")
    type_in(f"docker exec -d {name} python -m benchmark.mock_openai --port 9000")
    mock = f"docker exec {name} python -c 'import socket; socket.create_connection((\"127.0.0.1\", 9000))'"
    _wait(lambda: "refused" not in type_in(f"{mock} 2>&1 || true"))
    token = _issue(type_in(f"docker exec {name} printenv MANAGEMENT_TOKEN"))
    status, answer = _call("POST", "/v1/chat/completions", token, CHAT)
    _hold((status, answer["object"]) == (200, "chat.completion"), "passes a call on")
    record = json.loads(Path(type_in("realpath data/api_logs.jsonl")).read_text().splitlines()[0])
    _hold(record["outcome"] == "complete", "recorded it")
    _benchmarks(type_in, name, benchmark.replace("<withering-token>", token))
    type_in(f"docker stop -t 30 {name}")
    state = json.loads(_state(type_in, name))
    _hold(state["ExitCode"] == 0, f"stopped on TERM, with nothing left to be killed: {state}")


def _benchmarks(type_in: Callable[..., str], name: str, benchmark: str) -> None:
    """The README's benchmark. On Linux, the host has to be given its name."""
    host = type_in(f"docker inspect -f '{{{{.NetworkSettings.Gateway}}}}' {name}")
    said = type_in(benchmark.replace("--rm", f"--rm --add-host host.docker.internal:{host}", 1))
    print(said)
    served = type_in('grep -c \'"outcome":"complete"\' data/api_logs.jsonl')
    _hold(int(served) > 100, f"took every call of the benchmark: {served}")


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


def _call(method: str, path: str, bearer: str, body: object = None) -> tuple[int, dict]:
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
    _wait(_is_ready)
    type_in(f"docker stop -t 30 {name}")
    _hold(json.loads(_state(type_in, name))["ExitCode"] == 0, "runs read-only, without capabilities, on a volume")


def _refuses_to_make_a_key_for_several_nodes(type_in: Callable[..., str]) -> None:
    several = f"docker run {SECRETS} -e DATABASE_URL=postgresql://db/proxy llm-proxy"
    said = type_in(f"{several} 2>&1 || true")
    _hold("ENCRYPTION_KEY: is not set" in said, f"refuses to start without a key on PostgreSQL: {said}")


def _hold(is_so: bool, what: str) -> None:
    if not is_so:
        raise RuntimeError("it does not hold: " + what)
    print("  " + what.partition(":")[0])


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, TimeoutError, urllib.error.URLError, subprocess.TimeoutExpired) as exc:
        sys.exit(str(exc))
