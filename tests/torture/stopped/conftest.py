"""Processes that stop themselves with SIGSTOP at a chosen step."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

HERE = os.path.dirname(mpmetrics.__file__)  # noqa: PTH120 (as frames have it)


class Stopping:
    """A forked process that runs ``action`` and stops itself before the ``at``-th bytecode of the library in it.

    ``is_stopped`` is whether it came so far; else it has ended.
    """

    def __init__(self, action: Callable[[], object], at: int, within: str = "") -> None:
        self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                self._left = at
                self._within = within
                sys.settrace(self._enter)
                action()
                sys.settrace(None)
                status = 0
            except BaseException:  # noqa: BLE001 (told by the exit code)
                sys.settrace(None)
                traceback.print_exc()
            finally:
                os._exit(status)
        self._status: int | None = None
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        self.is_stopped = os.WIFSTOPPED(status)
        if not self.is_stopped:
            self._status = os.waitstatus_to_exitcode(status)

    def _enter(self, frame: FrameType, _event: str, _argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(HERE):
            return None
        frame.f_trace = self._step
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame: FrameType, event: str, _argument: object) -> Any:
        if event == "opcode" and (not self._within or frame.f_code.co_name == self._within):
            self._left -= 1
            if self._left < 0:
                sys.settrace(None)
                os.kill(os.getpid(), signal.SIGSTOP)
        return self._step

    def go_on(self) -> int:
        """Let it go on; its exit code."""
        if self._status is None:
            os.kill(self.pid, signal.SIGCONT)
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def kill(self) -> None:
        """End it, if it has not ended."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.go_on()


@pytest.fixture
def stopping() -> Iterator[Callable[..., Stopping]]:
    """Starts such processes; those that are left are killed."""
    started: list[Stopping] = []

    def start(action: Callable[[], object], at: int, within: str = "") -> Stopping:
        started.append(Stopping(action, at, within))
        return started[-1]

    yield start
    for each in started:
        with contextlib.suppress(ProcessLookupError):
            each.kill()


@pytest.fixture
def bounded() -> Callable[[Callable[[], Any], float], Any]:
    """Runs an action that must not wait for a stopped process; the limit only ends what hangs."""

    def run(action: Callable[[], Any], seconds: float = 60.0) -> Any:
        begin = time.monotonic()
        result = action()
        assert time.monotonic() - begin < seconds
        return result

    return run
