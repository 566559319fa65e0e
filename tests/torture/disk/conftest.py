"""Processes of an ordinary user that carry out one order after the other."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics.collector.epoch_reader import EpochReader
from mpmetrics.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Sums = Callable[[Any], dict[str, float]]

NOBODY = 65534


@pytest.fixture
def sums(sums: Sums) -> Sums:
    """The sums of all series of each name; every distribution, here of uses that observe 1.5, is whole."""

    def add(source: Any) -> dict[str, float]:
        found = sums(source)
        for name in ("took", "size"):
            assert found.get(f"{name}_sum", 0.0) == 1.5 * found.get(f"{name}_count", 0.0)
        return found

    return add


class Roles:
    """What a process of that user can be told to do."""

    def __init__(self, store: str, sums: Sums) -> None:
        self.store = store
        self.sums = sums
        self.lines: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: self.lines.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("mpmetrics").addHandler(handler)

    def said(self) -> list[str]:
        """What it has said in the log."""
        return self.lines

    def work(self, *, default: bool = False) -> bool:
        """Be a worker, in the store or, with ``default``, as a process that finds its name; whether it is in it."""
        os.environ["MPMETRICS_DIR"] = self.store
        mpmetrics.set_provider(None)
        self.provider = mpmetrics.get_provider() if default else mpmetrics.Provider(self.store)
        of: dict[str, Any] = {"provider": self.provider}
        self.hits = mpmetrics.Counter("hits", "Hits.", ["who"], **of)
        self.level = mpmetrics.UpDownCounter("level", "Level.", **of)
        self.took = mpmetrics.Histogram("took", "Took.", ["who"], buckets=(1, 2), **of)
        return self.provider.epoch is not None

    def use(self, *names: str) -> None:
        """Count one for each name."""
        for name in names:
            self.hits.labels(name).inc()
            self.level.inc()
            self.took.labels(name).observe(1.5)

    def declare(self, name: str) -> None:
        """Declare a metric and count one of it."""
        mpmetrics.Counter(name, "New.", provider=self.provider).inc()

    def flush(self) -> int:
        """Try to move in what waits; in how many slabs in memory the rest is."""
        self.provider.force_flush()
        return len(list(self.provider.memory.private_maps()))

    def fork(self) -> int:
        """Have a forked child in our place: it answers from now on, and we wait for its end. Its process id."""
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            os._exit(0)
        self.lines.clear()
        return os.getpid()

    def begin(self) -> int:
        """Be a server that begins an epoch, and leave it; its number."""
        epoch = Store(self.store).begin()
        epoch.close()
        return epoch.number

    def watch(self, *, is_naive: bool = False) -> None:
        """Be a collector of the directory; one that is naive shows what it can list, and nothing else."""
        if is_naive:
            EpochReader._read_known = lambda _self, _snapshot: None  # type: ignore[method-assign]
        self.collector = mpmetrics.Collector(self.store)

    def watch_provider(self) -> None:
        """Be a collector in the store, as a server's is."""
        self.collector = mpmetrics.Collector(mpmetrics.Provider(self.store))

    def watch_own(self) -> None:
        """Be a collector of our own provider, which shows what is private to us, too."""
        self.collector = mpmetrics.Collector(self.provider)

    def scrape(self) -> dict[str, float]:
        """What the collector shows."""
        return self.sums(self.collector)


class Person:
    """A process of user ``user``; an exception of what it was told to do is raised here, as it was printed."""

    def __init__(self, store: str, sums: Sums, user: int) -> None:
        self._here, there = socket.socketpair()
        self.pid = os.fork()
        if not self.pid:
            self._here.close()
            try:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
                roles = Roles(store, sums)
                with there.makefile("rb") as told:
                    while True:
                        name, arguments, named = pickle.load(told)  # noqa: S301 (our own)
                        answer: tuple[Any, str] = (None, "")
                        try:
                            answer = getattr(roles, name)(*arguments, **named), ""
                        except BaseException:  # noqa: BLE001 (told to the test)
                            answer = None, traceback.format_exc()
                        there.sendall(pickle.dumps(answer))
            finally:
                os._exit(0)
        there.close()
        self._waiting = self.pid
        self._is_gone = False
        self._answers = self._here.makefile("rb")

    def fork(self) -> None:
        """Have a forked child of it in its place."""
        self.pid = self.__getattr__("fork")()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Tell it to do ``name``, one of its roles."""

        def tell(*arguments: Any, **named: Any) -> Any:
            self._here.sendall(pickle.dumps((name, arguments, named)))
            result, error = pickle.load(self._answers)  # noqa: S301 (our own)
            if error:
                raise AssertionError(error)
            return result

        return tell

    def refusal(self, name: str) -> str:
        """What the store says against its doing ``name``; empty when it was done."""
        try:
            self.__getattr__(name)()
        except AssertionError as error:
            last = str(error).strip().splitlines()[-1]
            if "StoreUnavailableError: " not in last:
                raise
            return last
        return ""

    def kill(self) -> None:
        """End it with SIGKILL, or the child in its place, after which it ends by itself."""
        if not self._is_gone:
            self._is_gone = True
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self._waiting, 0)
            self._answers.close()
            self._here.close()


@pytest.fixture
def person(store_directory: str, sums: Sums) -> Iterator[Callable[..., Person]]:
    """Starts processes of an ordinary user, for a store that is not made yet; they are gone at the end."""
    Path(store_directory).chmod(0o755)
    store = Path(store_directory, "store")
    store.mkdir(0o700)
    os.chown(store, NOBODY, NOBODY)
    started: list[Person] = []

    def start(user: int = NOBODY) -> Person:
        started.append(Person(str(store), sums, user))
        return started[-1]

    yield start
    for each in started:
        each.kill()
