"""nginx for real, with the server that a test wants."""

import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.servers import WAIT_S, wait_for

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: apt-get install nginx-light)")
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class Nginx:
    """
    An nginx, while the context is open.

    Args:
        directory: For its files.
        port: Where its server listens, which is waited for.
        http: What stands in its http block.
    """

    def __init__(self, directory: Path, port: int, http: str) -> None:
        own = "\n".join(f"{kind}_temp_path {directory}/{kind};" for kind in _TEMPORARY)
        main = f"daemon off; pid {directory}/nginx.pid; worker_processes 1; error_log {directory}/errors;"
        (directory / "nginx.conf").write_text(f"{main}\nevents {{}}\nhttp {{\naccess_log off;\n{own}\n{http}\n}}\n")
        options = ["-p", str(directory), "-e", f"{directory}/errors", "-c", f"{directory}/nginx.conf"]
        self._command = [str(NGINX), *options]
        self._port = port

    def __enter__(self) -> None:
        checked = subprocess.run([*self._command, "-t"], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        assert "warn" not in checked.stderr
        self._process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        wait_for(self._listens)

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self._port)) == 0

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(WAIT_S)
