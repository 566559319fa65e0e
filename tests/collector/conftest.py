"""Forked processes that take one step at a time."""

from __future__ import annotations

import os
import signal
import traceback
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class Puppet:
    """A forked process that takes the first step of an iterable at its start, and one more at each call."""

    def __init__(self, steps: Iterable[object]) -> None:
        self._told, self._done = os.pipe(), os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.close(self._told[1])
                for _ in steps:
                    os.write(self._done[1], b"+")
                    if not os.read(self._told[0], 1):
                        break
                else:
                    os.read(self._told[0], 1)
            except BaseException:  # noqa: BLE001 (told to the parent or the test)
                os.write(self._done[1], traceback.format_exc().encode())
            finally:
                os._exit(0)
        os.close(self._told[0])
        os.close(self._done[1])
        self._alive = True
        self._expect()

    def _expect(self) -> None:
        said = os.read(self._done[0], 1 << 16)
        assert b"+" == said, f"the child failed:\n{said.decode()}"

    def step(self) -> None:
        """Let it take its next step, and wait until it has."""
        os.write(self._told[1], b".")
        self._expect()

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._alive:
            self._alive = False
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self._told[1])
            os.close(self._done[0])


@pytest.fixture
def stepwise() -> Iterator[Callable[[Iterable[object]], Puppet]]:
    """Start a process that goes step by step; processes that still run at the end of the test are killed."""
    started: list[Puppet] = []

    def start(steps: Iterable[object]) -> Puppet:
        made = Puppet(steps)
        started.append(made)
        return made

    yield start
    for one in started:
        one.kill()
