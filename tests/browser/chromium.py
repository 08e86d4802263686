"""Debian's Chromium under Playwright, signed in to a running proxy."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Playwright, expect

from tests.servers import ADMIN_PASSWORD, Server

EXECUTABLE = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

# It ends as soon as what is expected is there.
expect.set_options(timeout=30_000)


def launch(playwright: Playwright) -> Browser:
    """A browser, or a skip that says why there is none."""
    if not EXECUTABLE.exists():
        pytest.skip(f"there is no Chromium at {EXECUTABLE} (Debian: apt-get install chromium)")
    return playwright.chromium.launch(executable_path=str(EXECUTABLE), args=ARGUMENTS)


@contextmanager
def signed_in(
    browser: Browser,
    server: Server,
    *,
    width: int = 1280,
    scripts: bool = True,
    time_zone: str = "UTC",
    touch: bool = False,
) -> Iterator[Page]:
    """
    A page that knows the admin password, of a reader in this time zone, by touch where there is no pointer.

    A dialog, a fault of a script and anything that the browser had to refuse fails the test, at the end.
    """
    context = browser.new_context(
        base_url=server.url,
        http_credentials={"username": "admin", "password": ADMIN_PASSWORD},
        viewport={"width": width, "height": 900 if width > 500 else 812},
        java_script_enabled=scripts,
        permissions=["clipboard-read", "clipboard-write"],
        locale="en-US",
        timezone_id=time_zone,
        is_mobile=touch,
        has_touch=touch,
    )
    page = context.new_page()
    complaints: list[str] = []
    page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("pageerror", lambda error: complaints.append(f"script: {error}"))
    page.on(
        "console",
        lambda message: (
            complaints.append(f"console: {message.text}")
            if message.type == "error" and "Failed to load resource" not in message.text
            else None
        ),
    )
    page.complaints = complaints
    try:
        yield page
        assert complaints == []
    finally:
        context.close()
