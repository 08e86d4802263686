import shlex
import subprocess
from pathlib import Path

import pytest

import config
from server.first_run import greeting

KEY = "ZW5jcnlwdGlvbi1rZXktb2YtdGhlLXRlc3RzLTMyYnk="


def start(data_dir: Path, **environ: str) -> config.Settings:
    return config.load({"DATA_DIR": str(data_dir)} | environ, embedded=True)


def bearer_in(text: str) -> str:
    """What a shell makes of the bearer in the first command."""
    [line] = [line for line in text.splitlines() if line.startswith("PROJECT=")]
    header = line.split(' -H "')[1].rpartition('"')[0]
    return subprocess.run(
        ["/bin/sh", "-c", f'printf %s "{header}"'],
        env={"MANAGEMENT_TOKEN": "token-of-the-environment"},
        cwd="/",
        capture_output=True,
        check=True,
        text=True,
    ).stdout


def test_the_first_start_shows_its_secrets_once_and_where_they_lie(tmp_path: Path) -> None:
    first = start(tmp_path)
    text, later = greeting(first, 8080), greeting(start(tmp_path), 8080)

    for secret in (first.management_token, first.admin_password):
        assert secret in text
        assert secret not in later
    assert str(tmp_path / "encryption_key") in text
    assert (tmp_path / "encryption_key").read_text().strip() not in text


def test_a_secret_that_was_set_is_never_shown(tmp_path: Path) -> None:
    text = greeting(start(tmp_path, MANAGEMENT_TOKEN="token-of-the-environment", ENCRYPTION_KEY=KEY), 8080)

    assert "token-of-the-environment" not in text
    assert KEY not in text
    assert "admin_password" in text


def test_every_start_tells_where_the_admin_pages_are(tmp_path: Path) -> None:
    start(tmp_path)

    assert "The admin pages are at http://127.0.0.1:8080/admin/" in greeting(start(tmp_path), 8080)


@pytest.mark.parametrize(
    ("answer", "out", "err"),
    [
        ('{"id": "p-1", "token": "t-1"}', "p-1 t-1", ""),
        ('{"error": {"message": "A sentence.", "code": null}}', " ", "A sentence.\nA sentence.\n"),
    ],
)
def test_the_commands_to_paste_show_what_the_api_says(answer: str, out: str, err: str, tmp_path: Path) -> None:
    commands = greeting(start(tmp_path), 8080).split("real key:\n\n")[1]
    script = f"curl() {{ printf %s '{answer}'; }}\n{commands}\nprintf '\\n%s %s' $PROJECT $TOKEN"
    ran = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False)

    assert (ran.stdout, ran.stderr) == (f"{answer}\n{out}", err)


@pytest.mark.parametrize("name", ["data", "with space", 'it\'s $HOME `x` "y"'])
def test_the_commands_to_paste_read_the_kept_token(name: str, tmp_path: Path) -> None:
    settings = start(tmp_path / name)

    assert bearer_in(greeting(settings, 8080)) == f"Authorization: Bearer {settings.management_token}"


def test_the_commands_to_paste_use_the_token_that_holds(tmp_path: Path) -> None:
    """A token that is set goes before one that an earlier start has kept."""
    start(tmp_path)
    settings = start(tmp_path, MANAGEMENT_TOKEN="token-of-the-environment")

    assert bearer_in(greeting(settings, 8080)) == "Authorization: Bearer token-of-the-environment"


@pytest.mark.parametrize(
    ("host", "base"),
    [("127.0.0.1", "http://127.0.0.1:81"), ("::1", "http://[::1]:81"), ("localhost", "http://localhost:81")],
)
def test_the_address_is_one_that_a_client_can_use(host: str, base: str, tmp_path: Path) -> None:
    text = greeting(start(tmp_path, HOST=host), 81)

    assert f"serves {base}/v1" in text
    assert text.count(f"curl -sS {base}/") == 3


def test_each_command_is_one_that_a_shell_can_read(tmp_path: Path) -> None:
    commands = greeting(start(tmp_path), 8080).split("real key:\n\n")[1]

    assert subprocess.run(["/bin/sh", "-n", "-c", commands], check=False).returncode == 0
    assert shlex.split(commands, comments=False)


def test_operators_commands_go_to_their_own_listener_where_they_have_one(tmp_path):
    commands = greeting(start(tmp_path, OPS_BIND="[::1]:9090"), 8080).split("real key:\n\n")[1]

    assert commands.count("http://[::1]:9090/manage/") == 2
    assert commands.count("http://127.0.0.1:8080/v1/") == 1
