"""
Two ways in: `app` for gunicorn, and `python wsgi.py`, gevent's own server for the first run on loopback.

The patch comes first: what imports `ssl` or `socket` before it keeps the blocking ones.
"""

from gevent import monkey

monkey.patch_all()

from functools import partial

import click

import config
from app import create_app
from server import boot, process_log
from server.gunicorn import booting, master


def main() -> None:
    """Serve on loopback until SIGTERM or SIGINT, making whatever is missing."""
    from server.pywsgi.server import require_loopback, serve

    settings = boot.settings_or_exit(partial(config.load, embedded=True))
    process_log.configure(settings.log_format)
    boot.warn(settings)
    for host, _ in settings.listeners:
        require_loopback(host)
    serve(boot.migrated(create_app(settings), others_serve=False))


if __name__ == "__main__":
    main()
else:
    # Also the way in of `flask` commands, which may use what an embedded start keeps.
    is_command = click.get_current_context(silent=True) is not None
    settings = boot.settings_or_exit(partial(config.load, command=True)) if is_command else master.settings()
    app = boot.migrated(master.application() or create_app(settings), others_serve=booting.has_served())
