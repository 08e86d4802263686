"""
Docker's commands without Docker's engine and without a registry, for `try_image.py` and `try_compose.py`.

The engine is podman's service, which speaks Docker's API; all its storage lies in a temporary directory and goes with
the end of `engine`. Base images are stand-ins that debootstrap makes: Debian's libc, whatever an image's name says.
"""

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("debootstrap", "docker", "git", "ip", "podman", "runc", "tar")
BASES = ("docker.io/library/python:3.12-alpine", "docker.io/library/python:3.12-slim-bookworm")
LINKS, BRIDGES = Path("/sys/class/net"), re.compile(r"cni-podman\d+")
ADDRESSES = Path("/var/lib/cni/networks")
LIBRARIES = (
    "ca-certificates,netbase,tzdata,libssl3,libsqlite3-0,libffi8,libreadline8,libncursesw6,zlib1g,libbz2-1.0,liblzma5,"
    "libuuid1,libexpat1,libnsl2,libtirpc3,libgdbm6"
)
SERVICES = "curl nginx-light postgresql-15 prometheus python3"


class Image(NamedTuple):
    """A tar of a tree, what an image of it is called, and what it does."""

    tar: Path
    names: tuple[str, ...]
    changes: tuple[str, ...] = ()


def try_it(trial: Callable[[], None]) -> None:
    """Run a trial; its failure is said on standard error, and ends with 1. Asked to stop, it tidies up, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    try:
        trial()
    except (RuntimeError, TimeoutError, urllib.error.URLError, subprocess.TimeoutExpired) as exc:
        sys.exit(str(exc))


def give_up_without(programs: Sequence[str], ports: Sequence[int], also: Sequence[str] = ()) -> None:
    """End with 3 and name what this machine lacks for a trial, if anything. `also` lacks already."""
    lacking = [name for name in (*PROGRAMS, *programs) if shutil.which(name) is None]
    lacking += [] if os.getuid() == 0 else ["root"]
    lacking += [] if _python() else ["a CPython 3.12 of pyenv"]
    for port in ports:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
            lacking.append(f"port {port}, which is published")
    if lacking := [*lacking, *also]:
        print("not tried, for want of: " + ", ".join(lacking))
        sys.exit(3)


def shell(
    command: str,
    *,
    environ: dict[str, str] | None = None,
    cwd: Path = ROOT,
    timeout_s: float = 600,
    is_shown: bool = False,
) -> str:
    """What a command printed, unless it was shown at once. Raises RuntimeError with all of it when it failed."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=None if is_shown else subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{command}\nended with {done.returncode}:\n{done.stdout or ''}")
    return (done.stdout or "").strip()


def terminal(environ: dict[str, str], cwd: Path) -> Callable[..., str]:
    """A function that shows a command, runs it there, and returns what it printed, or shows that, too."""

    def type_in(command: str, timeout_s: float = 600, is_shown: bool = False) -> str:
        print("$ " + command.replace("\n", "\n  "), flush=True)
        return shell(command, environ=environ, cwd=cwd, timeout_s=timeout_s, is_shown=is_shown)

    return type_in


def wait(look: Callable[[], object], timeout_s: float = 60, *, for_what: str = "it") -> None:
    deadline = time.monotonic() + timeout_s
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{for_what} did not happen in {timeout_s:.0f} s")
        time.sleep(0.1)


def hold(is_so: bool, what: str) -> None:
    """Say what is so. Raises RuntimeError where it is not; what follows a colon is told only then."""
    if not is_so:
        raise RuntimeError("it does not hold: " + what)
    print("  " + what.partition(":")[0], flush=True)


def copy_of_the_source(work: Path) -> Path:
    """What git knows and would take up, as a fresh clone has it."""
    source = work / "llm-proxy"
    files = "git ls-files -z --cached --others --exclude-standard"
    shell(f"mkdir {source} && {files} | tar --null -T - -cf - | tar -C {source} -xf -")
    return source


# Stand-ins for base images


def python_image(directory: Path) -> Image:
    """What the Dockerfile is based on, made in the directory unless it is there: pyenv's CPython 3.12 on Debian."""
    tar = directory / "python.tar"
    if not tar.exists():
        print("making the stand-in for Python's image", flush=True)
        _pack(tar, LIBRARIES, _add_python)
    return Image(tar, BASES, ('CMD ["python3"]', "ENV PATH=/usr/local/bin:/usr/bin:/bin"))


def services_image(directory: Path) -> Image:
    """Debian with nginx, PostgreSQL and Prometheus, made in the directory unless it is there."""
    tar = directory / "services.tar"
    if not tar.exists():
        print("making the stand-in for the images of the services", flush=True)
        _pack(tar, "ca-certificates", _add_services)
    return Image(tar, ("localhost/debian-services",))


def _pack(tar: Path, packages: str, add: Callable[[Path], None]) -> None:
    tar.parent.mkdir(parents=True, exist_ok=True)
    tree, unfinished = tar.with_suffix(".tree"), tar.with_suffix(".unfinished")
    try:
        shell(f"debootstrap --variant=minbase --include={packages} bookworm {tree}", timeout_s=1200)
        add(tree)
        shell(f"rm -rf {tree}/var/lib/apt/lists/* {tree}/var/cache/apt/* && tar -C {tree} -cf {unfinished} .")
        unfinished.rename(tar)
    finally:
        shell(f"rm -rf {tree} {unfinished}")


def _python() -> Path | None:
    found = sorted(Path("~/.pyenv/versions").expanduser().glob("3.12.*/bin/python3.12"))
    return found[-1].parent.parent if found else None


def _add_python(tree: Path) -> None:
    """CPython as Docker's own images have it: under /usr/local, with pip."""
    python, local = _python(), tree / "usr/local"
    shell(f"""
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


def _add_services(tree: Path) -> None:
    shell(
        f"""
        # Nothing is started in the tree: it would serve this machine.
        printf '#!/bin/sh\\nexit 101\\n' > {tree}/usr/sbin/policy-rc.d
        chmod +x {tree}/usr/sbin/policy-rc.d
        mkdir -p {tree}/etc/postgresql-common
        echo 'create_main_cluster = false' > {tree}/etc/postgresql-common/createcluster.conf
        cp -L /etc/resolv.conf {tree}/etc/resolv.conf
        DEBIAN_FRONTEND=noninteractive chroot {tree} apt-get install -y -qq --no-install-recommends {SERVICES}
        """,
        timeout_s=1200,
    )


# The engine


@contextmanager
def engine(work: Path, images: Sequence[Image]) -> Iterator[dict[str, str]]:
    """A running service that has these images; the environment for Docker's clients."""
    environ = _configure(work)
    had = _unused_networks()
    address = f"unix://{work}/podman.sock"
    try:
        for image in images:
            _import(image, environ)
        with _service(work, address, environ):
            yield environ | {"DOCKER_HOST": address, "DOCKER_BUILDKIT": "0"}
    finally:
        _tidy_up(work, had)


def _import(image: Image, environ: dict[str, str]) -> None:
    changes = " ".join(f"--change '{change}'" for change in image.changes)
    shell(f"podman import -q {changes} {image.tar} {image.names[0]}", environ=environ)
    shell(f"podman tag {' '.join((image.names[0], *image.names))}", environ=environ)


@contextmanager
def _service(work: Path, address: str, environ: dict[str, str]) -> Iterator[None]:
    with (work / "podman.log").open("wb") as log:
        service = subprocess.Popen(
            ["podman", "system", "service", "-t", "0", address], env=environ, stdout=log, stderr=log
        )
    try:
        wait((work / "podman.sock").exists, for_what="the start of podman's service")
        yield
    finally:
        with suppress(RuntimeError, subprocess.TimeoutExpired):
            shell("podman rm -af -t 1 && podman network prune -f", environ=environ, timeout_s=120)
        service.terminate()
        service.wait(10)


def _tidy_up(work: Path, had: set[Path]) -> None:
    """What would outlive the directory, or stand in the way of its removal."""
    # A command that was run in a container leaves a process that looks after it for five minutes more.
    for process in _processes_of(work):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    wait(lambda: not _processes_of(work), for_what="the end of the engine's processes")
    mounts = re.findall(rf"^\S+ ({re.escape(str(work))}/\S*)", Path("/proc/mounts").read_text(), re.MULTILINE)
    for mounted in reversed(mounts):
        shell(f"umount -l {mounted} || true")
    for network in _unused_networks() - had:
        shell(f"ip link delete {network.name}" if network.parent == LINKS else f"rm -rf {network}")


@contextmanager
def health_checks(environ: dict[str, str]) -> Iterator[None]:
    """Run the containers' health checks at their intervals, for a `with` block: podman leaves that to systemd."""
    ended = threading.Event()
    due: dict[str, float] = {}

    def check() -> None:
        while not ended.wait(1):
            with suppress(RuntimeError, subprocess.TimeoutExpired):
                for container in shell("podman ps -q", environ=environ).split():
                    _check_when_due(container, due, environ)

    thread = threading.Thread(target=check)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _check_when_due(container: str, due: dict[str, float], environ: dict[str, str]) -> None:
    now = time.monotonic()
    if now < due.get(container, 0):
        return
    said = shell(f"podman inspect -f '{{{{json .Config.Healthcheck}}}}' {container}", environ=environ)
    interval_s = ((json.loads(said) or {}).get("Interval") or 0) / 1e9
    if interval_s and container in due:
        # A bad one fails; the engine remembers.
        shell(f"podman healthcheck run {container} || true", environ=environ)
    due[container] = now + (interval_s or float("inf"))


def _processes_of(work: Path) -> list[int]:
    """The processes whose command line names the directory."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(work).encode() in command.read_bytes():
                found.append(int(command.parent.name))
    return found


def _unused_networks() -> set[Path]:
    """Bridges that nobody hangs on, and lists of addresses without one. podman makes them, and leaves some."""
    bridges = {
        path for path in LINKS.iterdir() if BRIDGES.fullmatch(path.name) and not any((path / "brif").iterdir())
    }
    lists = {path for path in ADDRESSES.glob("*") if not any(name.name[0].isdigit() for name in path.iterdir())}
    return bridges | lists


def _configure(work: Path) -> dict[str, str]:
    (work / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{work}/graph"\nrunroot = "{work}/run"\n'
    )
    # Without CAP_SYS_RESOURCE nobody gets more than this process may have.
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    (work / "containers.conf").write_text(
        f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc=4096:4096"]\n'
        f'[network]\nnetwork_backend = "cni"\nnetwork_config_dir = "{work}/networks"\n'
        # Nothing is shared with another engine on this machine.
        f'[engine]\ntmp_dir = "{work}/libpod"\nlock_type = "file"\n'
        'runtime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
    )
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(work),
        "CONTAINERS_CONF": str(work / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(work / "storage.conf"),
        "BUILDAH_ISOLATION": "chroot",
    }
