"""gunicorn's own lines, in the form of all others of the process. Read in gunicorn 27.0."""

from __future__ import annotations

import logging
from logging.handlers import SysLogHandler

from gunicorn.config import Config
from gunicorn.glogging import Logger as GunicornLogger

from server import process_log


class Logger(GunicornLogger):  # type: ignore[misc]
    """Writes where gunicorn is told to, and as `LOG_FORMAT` says."""

    def setup(self, cfg: Config) -> None:
        """Called at the start and at each reload."""
        super().setup(cfg)
        for handler in logging.getLogger("gunicorn.error").handlers:
            if not isinstance(handler, SysLogHandler):  # syslog puts time and process before each line itself
                handler.setFormatter(process_log.formatter())

    def close_on_exec(self) -> None:
        """Nothing: Python opens files so by itself. gunicorn's own would walk over all loggers in each worker."""
