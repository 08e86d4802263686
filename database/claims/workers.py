"""
Which workers of this node live: each holds a file of its name locked, and the kernel lets go of it when it ends,
however it ends. A worker that is only paused holds it on.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from llmproxy.api_log.file_lock import FileLock

_NAME_BYTES = 8
_TRIES = 5


class Worker:
    """This process, under a name that no other has. To be made after the fork; OSError where no file can be made."""

    def __init__(self, data_dir: Path) -> None:
        directory = _directory(data_dir)
        directory.mkdir(mode=0o700, exist_ok=True)
        self._lock = _locked_file(directory)
        self.name = self._lock.path.name

    def leave(self) -> None:
        """This process has no running calls any more."""
        with suppress(OSError):  # on a disk that is read-only it stays, until somebody buries the dead
            self._lock.path.unlink()
        self._lock.release()


def _locked_file(directory: Path) -> FileLock:
    # Between its making and its locking, somebody may take a file for a dead worker's.
    for _ in range(_TRIES):
        lock = FileLock(directory / secrets.token_hex(_NAME_BYTES))
        if lock.acquire():
            return lock
    raise OSError(f"no file in {directory} can be locked")


def dead_among(data_dir: Path, names: Iterable[str]) -> list[str]:
    """Those of the workers of this node that have ended."""
    return [name for name in names if not _is_alive(_directory(data_dir) / name)]


def bury(data_dir: Path) -> int:
    """Delete the files of workers that have ended; how many there were."""
    directory = _directory(data_dir)
    dead = [path for path in directory.iterdir() if not _is_alive(path)] if directory.is_dir() else []
    for path in dead:
        path.unlink(missing_ok=True)
    return len(dead)


def _is_alive(path: Path) -> bool:
    # What is not there would be made by the attempt.
    if not path.is_file():
        return False
    lock = FileLock(path)
    if not lock.acquire():
        return path.is_file()
    lock.release()
    return False


def _directory(data_dir: Path) -> Path:
    return data_dir / "workers"
