"""A lock between processes that the kernel frees on any exit, `kill -9` included (flock)."""

import fcntl
import os
from pathlib import Path


class FileLock:
    """One holder per lock file. Never waits. Take it after a fork: a child would share its parent's hold."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    @property
    def is_held(self) -> bool:
        return self._fd >= 0

    def acquire(self) -> bool:
        """True when this object holds the lock now. OSError when the lock file cannot be made."""
        if self.is_held:
            return True
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        except OSError:
            os.close(fd)
            raise
        # A lock on a file that was deleted meanwhile excludes nobody.
        if not is_file_at(self.path, fd):
            os.close(fd)
            return False
        self._fd = fd
        return True

    def release(self) -> None:
        if self.is_held:
            os.close(self._fd)
            self._fd = -1


def is_file_at(path: Path, fd: int) -> bool:
    """Whether the open file is the one that the path names now."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False
