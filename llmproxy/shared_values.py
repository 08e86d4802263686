"""
Numbers in files that all worker processes of a machine share, as prometheus_client's multiprocess mode lays them out.

Each process writes files of its own and a scrape adds them up. What was counted is in the file at once, so a process
that is killed has lost nothing. What a dead one has counted goes to a file of the dead: files do not pile up.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest, multiprocess, values
from prometheus_client.mmap_dict import MmapedDict, mmap_key

_directory: Path | None = None


def share_in(directory: Path) -> None:
    """Count every number of this process in files there. After the fork, and before the first metric is made."""
    global _directory  # noqa: PLW0603
    _directory = directory
    values.ValueClass = _shared_value_class(directory)


def exposition() -> bytes:
    """The numbers of this process, or the sums over all that share, in Prometheus' text format."""
    if _directory is None:
        return generate_latest()
    registry = CollectorRegistry()
    with _locked(_directory, fcntl.LOCK_SH):
        multiprocess.MultiProcessCollector(registry, path=str(_directory))
        return generate_latest(registry)


def absorb(directory: Path, pid: int) -> None:
    """Keep what a dead process has counted, and forget how it was: its gauges."""
    with _locked(directory, fcntl.LOCK_EX):
        multiprocess.mark_process_dead(pid, path=str(directory))
        for kind in ("counter", "histogram"):
            own = directory / f"{kind}_{pid}.db"
            if own.exists():
                _add(own, directory / f"{kind}_dead.db")
                own.unlink()


def _add(own: Path, total: Path) -> None:
    sums = MmapedDict(str(total))
    for key, value, _, _ in MmapedDict.read_all_values_from_file(str(own)):
        sums.write_value(key, sums.read_value(key)[0] + value, 0.0)
    sums.close()


@contextmanager
def _locked(directory: Path, how: int) -> Iterator[None]:
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, how)
        yield


def _shared_value_class(directory: Path) -> type:
    """
    What the library shall make its numbers of.

    Its own takes a lock and packs two numbers for each count. Greenlets need no lock here, as nothing yields, and a
    number alone is one store into the mapped file: 0.3 instead of 0.7 µs.
    """
    pid = os.getpid()
    files: dict[str, MmapedDict] = {}

    class SharedValue:
        """One number; `_cells[_at]` is the value, the next cell its timestamp."""

        _multiprocess = True

        def __init__(
            self,
            typ: str,
            metric_name: str,
            name: str,
            labelnames: list[str],
            labelvalues: list[str],
            help_text: str,
            multiprocess_mode: str = "",
            **_: Any,
        ) -> None:
            prefix = f"{typ}_{multiprocess_mode}" if typ == "gauge" else typ
            if prefix not in files:
                files[prefix] = MmapedDict(str(directory / f"{prefix}_{pid}.db"))
            key = mmap_key(metric_name, name, labelnames, labelvalues, help_text)
            files[prefix].read_value(key)
            # When the file grows it is mapped anew; this mapping still shows the same bytes of it.
            self._cells = memoryview(files[prefix]._m).cast("d")
            self._at = files[prefix]._positions[key] // 8

        def inc(self, amount: float) -> None:
            """Add."""
            self._cells[self._at] += amount

        def set(self, value: float, timestamp: float | None = None) -> None:
            """Replace."""
            self._cells[self._at] = value
            self._cells[self._at + 1] = timestamp or 0.0

        def get(self) -> float:
            """The value."""
            value: float = self._cells[self._at]
            return value

        def get_exemplar(self) -> None:
            """None: exemplars are not kept."""

    return SharedValue
