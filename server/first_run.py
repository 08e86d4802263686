"""What the first start tells its operator: where the secrets lie, and three commands to paste."""

from __future__ import annotations

import shlex
from pathlib import Path

from config import Settings


def greeting(settings: Settings, port: int) -> str:
    """The text for the terminal. Secrets are shown only by the start that made them."""
    base = _url(settings.host, port)
    ops = _url(*settings.ops_bind) if settings.ops_bind else base
    pages = f"The admin pages are at {ops}/admin/ and take the user {settings.admin_user!r} and the admin password."
    parts = [f"llm-proxy serves {base}/v1 and forwards to {settings.upstream_url}\n{pages}"]
    if settings.made_secrets:
        parts.append(_secrets(settings))
    parts.append(_next_commands(base, ops, _bearer(settings)))
    return "\n\n".join(parts) + "\n"


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _secrets(settings: Settings) -> str:
    shown = {"management_token": settings.management_token, "admin_password": settings.admin_password}
    lines = ["Made just now and kept there, readable by you alone; shown this once:"]
    lines += [f"  {path}  {shown.get(path.name, '(not shown)')}" for path in settings.made_secrets]
    return "\n".join(lines)


def _bearer(settings: Settings) -> str:
    kept: Path = settings.data_dir / "management_token"
    # A token that is set holds, though an earlier start may have kept another one.
    holds = kept.exists() and kept.read_text(encoding="utf-8").strip() == settings.management_token
    return f"$(cat {shlex.quote(str(kept.absolute()))})" if holds else "$MANAGEMENT_TOKEN"


def _next_commands(base: str, ops: str, bearer: str) -> str:
    # An error's own sentence, where it is one: the key is not set, say, or the project is there already.
    field = (
        "python3 -c 'import json,sys; a=json.load(sys.stdin);"
        ' print(a["%s"]) if "error" not in a else sys.exit(a["error"]["message"])\''
    )
    return f"""Next, in another terminal, with OPENAI_API_KEY set to your real key:

PROJECT=$(curl -sS {ops}/manage/projects -H "Authorization: Bearer {bearer}" \\
  -d '{{"name": "first project", "openai_api_key": "'"$OPENAI_API_KEY"'"}}' | {field % "id"})

TOKEN=$(curl -sS {ops}/manage/tokens -H "Authorization: Bearer {bearer}" \\
  -d '{{"project_id": "'"$PROJECT"'", "duration_hours": 24}}' | {field % "token"})

curl -sS {base}/v1/chat/completions -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" \\
  -d '{{"model": "gpt-4o-mini", "messages": [{{"role": "user", "content": "Hello"}}]}}'"""
