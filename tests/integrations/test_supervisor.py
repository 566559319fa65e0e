"""The supervisor of a child process, without a server."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from mpmetrics.integrations.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Supervise = Callable[[Callable[[int, int], None]], Supervisor]

FOR_EVER = 3600.0


@pytest.fixture
def supervise() -> Iterator[Supervise]:
    """Start children, which end with the test."""
    made: list[Supervisor] = []

    def start(body: Callable[[int, int], None]) -> Supervisor:
        made.append(Supervisor("child", body))
        made[-1].check()
        return made[-1]

    yield start
    for supervisor in made:
        if supervisor.pid:
            os.kill(supervisor.pid, signal.SIGKILL)
            supervisor.stop(FOR_EVER)


def sleep(_parent: int, _heartbeat: int) -> None:
    """Do nothing until a signal ends the process."""
    time.sleep(FOR_EVER)


def be_deaf(_parent: int, heartbeat: int) -> None:
    """Do nothing, and ignore SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(heartbeat, b".")
    time.sleep(FOR_EVER)


def test_a_stopped_child_is_ended_without_waiting(supervise: Supervise) -> None:
    """A stopped child cannot react to SIGTERM, so it is killed at once, without the grace."""
    supervisor = supervise(sleep)
    pid = supervisor.pid
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    supervisor.stop(FOR_EVER)
    assert 0 == supervisor.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(supervise: Supervise) -> None:
    """A child that ignores SIGTERM is killed after the grace, and not before."""
    supervisor = supervise(be_deaf)
    while supervisor._alive(time.monotonic()) and supervisor._beaten == supervisor._started:
        time.sleep(0.001)
    start = time.monotonic()
    supervisor.stop(0.2)
    assert 0 == supervisor.pid
    assert 0.2 <= time.monotonic() - start
