"""`make demo`: a filled proxy to call and to look at, without a key."""

import base64
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.servers import fetch

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 200


# As a shell starts what it leaves in the background.
IN_BACKGROUND = ("/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh")


def test_the_demo_has_pages_full_of_traffic_and_a_token_to_call_and_leaves_nothing(tmp_path: Path) -> None:
    small = ("--port", "0", "--records", "400", "--tokens", "20")
    command = [*IN_BACKGROUND, sys.executable, "-m", "measure.demo", *small]
    # Other people's settings must not matter.
    environ = {"TMPDIR": str(tmp_path), "LOGGING_URL": "nonsense"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        try:
            assert demo.stdout is not None and demo.stderr is not None
            lines: list[str] = []
            while "Ctrl+C" not in "".join(lines[-1:]):
                lines.append(demo.stdout.readline())
                assert lines[-1], "the demo ended"
            text = "".join(lines)
            pages, user, password = re.search(r"(http://\S+/admin/) +user: (\S+) +password: (\S+)", text).groups()
            call = text[text.index("curl ") : text.index("Ctrl+C")]

            basic = base64.b64encode(f"{user}:{password}".encode()).decode()
            headers = {"Authorization": f"Basic {basic}", "Accept": "text/html"}
            status, _, page = fetch(pages, "GET", "/admin/", headers)
            _, _, used = fetch(pages, "GET", "/admin/tokens?order=requests", headers)
            management = re.search(r"openapi\.json +token: (\S+)", text)[1]
            described = fetch(pages, "GET", "/manage/openapi.json", {"Authorization": f"Bearer {management}"})[0]
            called = subprocess.run(
                ["/bin/sh", "-c", call], capture_output=True, text=True, check=True, timeout=TIMEOUT_S
            )

            demo.send_signal(signal.SIGINT)
            assert demo.wait(TIMEOUT_S) == 0
            warned = demo.stderr.read()
        finally:
            demo.terminate()
    assert "WARNING" not in warned
    assert status == 200 and b"Support assistant" in page and b"Cost" in page
    # Whoever has calls was used.
    rows = [row for row in used.decode().split("<tr>")[2:] if re.search(r'data-label="Requests" class="num"><a', row)]
    assert len(rows) >= 5 and not any("never" in row for row in rows)
    assert described == 200
    assert '"chat.completion"' in called.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_demo_says_at_once_in_one_line_that_its_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "measure.demo", "--port", str(port)]
        ended = subprocess.run(
            command, cwd=ROOT, env={}, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )

    told = f"Port {port} is taken by another process: choose one with --port, where 0 takes a free one.\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", told)
