"""The election among the collectors of an epoch, when the lock that decides it cannot be opened."""

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
    """Holds an election whose tries fail in these ways: how many beats it took, and whether the lock is ours then."""
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
    """As the system says it."""
    return OSError(number, os.strerror(number), "collector.lock")


@pytest.mark.parametrize("number", sorted(PASSING), ids=errno.errorcode.get)
def test_an_error_that_passes_does_not_end_it(elect: Elect, number: int, caplog: pytest.LogCaptureFixture) -> None:
    """It is held when the lock can be opened again, and nothing is said."""
    assert (PATIENT_BEATS - 1, True) == elect([failure(number)] * (PATIENT_BEATS - 1))
    assert "" == caplog.text


def test_an_error_that_stays_ends_it_after_some_beats(elect: Elect, caplog: pytest.LogCaptureFixture) -> None:
    """Scrapes wait no longer than that, also after a long wait for another's end."""
    others = [LockTimeoutError("held by another")] * 5
    assert (5 + PATIENT_BEATS - 1, False) == elect([*others, *[failure(errno.EMFILE)] * 100])
    assert 1 == caplog.text.count("without an election")


def test_an_error_that_does_not_pass_ends_it_at_once(elect: Elect, caplog: pytest.LogCaptureFixture) -> None:
    """Who may not open the lock will not be allowed to in a moment either."""
    assert (0, False) == elect([failure(errno.EACCES)])
    assert 1 == caplog.text.count("without an election")
