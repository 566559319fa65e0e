"""The lock of those who wait for a moment only: what ends in the middle of a turn is waited for once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from mpmetrics.storage import turns as module
from mpmetrics.storage.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 60.0


def elsewhere(function: Callable[[], object]) -> threading.Thread:
    """Have ``function`` called by another thread."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def turns() -> Turns:
    """A lock whose holder was ended by an exception out of a signal handler, and never let go."""
    taken = Turns()
    elsewhere(taken.__enter__).join()
    return taken


def test_a_turn_that_never_ends_is_waited_for_once(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs out of patience leaves a lock that excludes again, and that nobody waits for in vain."""
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    with turns:
        monkeypatch.setattr(module, "PATIENCE", PATIENCE)
        done: list[str] = []
        entered = threading.Event()

        def take() -> None:
            entered.set()
            with turns:
                done.append("other")

        other = elsewhere(take)
        assert entered.wait(PATIENCE)
        other.join(0.1)
        done.append("this")
    other.join(PATIENCE / 2)
    assert ["this", "other"] == done


def test_whoever_holds_the_former_lock_lets_go_of_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that only took its time leaves while another thread has the new lock, and goes on having it."""
    turns = Turns()
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    began, goes_on = threading.Event(), threading.Event()

    def take_time() -> None:
        with turns:
            began.set()
            goes_on.wait(PATIENCE)

    slow = elsewhere(take_time)
    assert began.wait(PATIENCE)
    with turns:
        goes_on.set()
        slow.join(PATIENCE)
        assert turns._lock._is_owned()
