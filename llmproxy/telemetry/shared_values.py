"""
Numbers in files that all worker processes of a machine share, as prometheus_client's multiprocess mode lays them out.

Each process writes files of its own and a scrape adds them up. What was counted is in the file at once, so a process
that is killed has lost nothing. What a dead one has counted goes to a file of the dead: files do not pile up.

Read in prometheus_client 0.26.0.
"""

from __future__ import annotations

import fcntl
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest, multiprocess, values
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.samples import Sample

_files: _Files | None = None


def share_in(directory: Path) -> None:
    """
    Count every number of this process in files there, from what it stands at. After the fork.

    Numbers that were made before it are one process's own until then.
    """
    global _files  # noqa: PLW0603
    _files = _Files(directory)
    for number in _unshared:
        number.share(_files)
    _unshared.clear()


def lost() -> str | None:
    """What an upgrade of the library took away from here; see `server.overrides`."""
    if _files is None:
        return None if _unshared else "makes its numbers of a class of its own"
    return _files.lost()


def exposition() -> bytes:
    """The numbers of this process, or the sums over all that share, in Prometheus' text format."""
    with _registry() as registry:
        return generate_latest(registry)


def samples() -> list[Sample]:
    """The same numbers, for whoever wants a few of them."""
    with _registry() as registry:
        return [sample for family in registry.collect() for sample in family.samples]


@contextmanager
def _registry() -> Iterator[CollectorRegistry]:
    if _files is None:
        yield REGISTRY
        return
    registry = CollectorRegistry()
    with _locked(_files.directory, fcntl.LOCK_SH):
        multiprocess.MultiProcessCollector(registry, path=str(_files.directory))
        yield registry


def absorb(directory: Path, pid: int) -> None:
    """Keep what a dead process has counted, and forget how it was: its gauges."""
    with _locked(directory, fcntl.LOCK_EX):
        multiprocess.mark_process_dead(pid, path=str(directory))
        for kind in ("counter", "histogram"):
            own = directory / f"{kind}_{pid}.db"
            if own.exists():
                # Empty: it was killed while it made the file.
                if own.stat().st_size:
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


class _Files:
    """The files of one process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._pid = os.getpid()
        self._open: dict[str, MmapedDict] = {}

    def place_of(self, kind: str, key: str) -> tuple[memoryview[float], int]:
        """Mapped cells, and which of them is this number's."""
        if kind not in self._open:
            # For a moment it is empty, which whoever adds up could not read.
            with _locked(self.directory, fcntl.LOCK_EX):
                self._open[kind] = MmapedDict(str(self.directory / f"{kind}_{self._pid}.db"))
        file = self._open[kind]
        file.read_value(key)
        # When the file grows it is mapped anew; this mapping still shows the same bytes of it.
        return memoryview(file._m).cast("d"), file._positions[key] // 8

    def lost(self) -> str | None:
        """See `lost`."""
        if not self._open:
            return "makes its numbers of a class of its own"
        for kind, file in self._open.items():
            for key, value, _ in file.read_all_values():
                cells, at = self.place_of(kind, key)
                if cells[at] != value:
                    return "lays its files out otherwise"
        return None


class SharedValue:
    """
    What the library shall make its numbers of. `_cells[_at]` is the value, the next cell its timestamp.

    Its own takes a lock and packs two numbers for each count. Greenlets need no lock here, as nothing yields, and a
    number alone is one store into the mapped file: 0.3 instead of 0.7 µs.
    """

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
        self._kind = f"{typ}_{multiprocess_mode}" if typ == "gauge" else typ
        self._key = mmap_key(metric_name, name, labelnames, labelvalues, help_text)
        self._cells: memoryview[float] = memoryview(bytearray(16)).cast("d")
        self._at = 0
        if _files is None:
            _unshared.append(self)
        else:
            self.share(_files)

    def share(self, files: _Files) -> None:
        """Count on in a file."""
        so_far = self.get()
        self._cells, self._at = files.place_of(self._kind, self._key)
        self.inc(so_far)

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


def adding(counter: Counter) -> Callable[[float], None]:
    """What adds to a counter, without the library's own look at each number: that takes four times as long."""
    add: Callable[[float], None] = counter._value.inc
    return add


def observing(histogram: Histogram) -> Callable[[float], None]:
    """The same for what a histogram observes."""
    total: SharedValue = histogram._sum
    buckets: list[SharedValue] = histogram._buckets
    bounds = histogram._upper_bounds  # of which the last is infinite

    def observe(amount: float) -> None:
        bucket = buckets[bisect_left(bounds, amount)]
        # As `inc` does, of which there would be two for each of a call's four.
        total._cells[total._at] += amount
        bucket._cells[bucket._at] += 1

    return observe


_unshared: list[SharedValue] = []
# The library asks for the class whenever a number is made.
values.ValueClass = SharedValue
