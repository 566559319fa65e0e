"""The election among the collectors of an epoch, if the lock that decides it cannot be opened."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from mpmetrics import Collector, LockTimeoutError
from mpmetrics.endpoint import process as endpoint_module
from mpmetrics.endpoint.process import PASSING, PATIENT_BEATS, Endpoint
from mpmetrics.storage.locks import Mutex

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpmetrics import Provider

    Elect = Callable[[list[OSError | LockTimeoutError]], tuple[int, bool]]


@pytest.fixture
def elect(monkeypatch: pytest.MonkeyPatch, shared: Provider, tmp_path: Path) -> Elect:
    """Hold an election whose tries fail as given; return the number of beats, and whether the lock is held then."""
    monkeypatch.setattr(endpoint_module, "BEAT", 0.001)
    lock = str(tmp_path / "collector.lock")

    def hold(failures: list[OSError | LockTimeoutError]) -> tuple[int, bool]:
        beats = -1

        def disturbed(path: str, timeout: float) -> Any:
            nonlocal beats
            beats += 1
            if failures:
                raise failures.pop(0)
            return Mutex(path, timeout)

        monkeypatch.setattr(endpoint_module, "Mutex", disturbed)
        endpoint = Endpoint(Collector(shared), [], parent=os.getppid(), heartbeat=-1, election=lock)
        with contextlib.ExitStack() as elected:
            assert asyncio.run(endpoint._win(elected, asyncio.Event()))
            try:
                with Mutex(lock, 0.0):
                    return beats, False
            except LockTimeoutError:
                return beats, True

    return hold


def failure(number: int) -> OSError:
    """An OSError as the system raises it."""
    return OSError(number, os.strerror(number), "collector.lock")


@pytest.mark.parametrize("number", sorted(PASSING), ids=errno.errorcode.get)
def test_a_passing_error_does_not_end_the_election(elect: Elect, number: int, caplog: pytest.LogCaptureFixture) -> None:
    """After a passing error, the collector tries again, wins, and logs nothing."""
    assert (PATIENT_BEATS - 1, True) == elect([failure(number)] * (PATIENT_BEATS - 1))
    assert "" == caplog.text


def test_a_lasting_error_ends_the_election(elect: Elect, caplog: pytest.LogCaptureFixture) -> None:
    """After PATIENT_BEATS errors in a row the collector serves without the lock, also after a wait for another one."""
    others = [LockTimeoutError("held by another")] * 5
    assert (5 + PATIENT_BEATS - 1, False) == elect([*others, *[failure(errno.EMFILE)] * 100])
    assert 1 == caplog.text.count("without an election")


def test_a_permanent_error_ends_the_election_at_once(elect: Elect, caplog: pytest.LogCaptureFixture) -> None:
    """A permission error does not pass, so the collector serves without the lock at once and logs it."""
    assert (0, False) == elect([failure(errno.EACCES)])
    assert 1 == caplog.text.count("without an election")
