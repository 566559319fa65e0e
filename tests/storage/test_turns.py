"""The lock of those who wait for a moment only: what ended in the middle of a turn is not waited for."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

import pytest

from mpmetrics.storage import turns as module
from mpmetrics.storage.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 60.0
"""Seconds that nobody waits for here: a test in which somebody did runs into its own limit."""


def elsewhere(function: Callable[[], object]) -> threading.Thread:
    """Have ``function`` called by another thread."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


class Holder:
    """Another thread that has its turn until it is told to end it."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._began, self._goes_on = threading.Event(), threading.Event()
        self._thread = elsewhere(self._take)
        assert self._began.wait(PATIENCE)

    def _take(self) -> None:
        with self._turns:
            self._began.set()
            self._goes_on.wait(PATIENCE)

    def end(self) -> None:
        """Have it end its turn."""
        self._goes_on.set()
        self._thread.join(PATIENCE)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Have whoever waits from now on be this patient; long, until it is called."""

    def change(seconds: float) -> None:
        monkeypatch.setattr(module, "PATIENCE", seconds)

    change(PATIENCE)
    return change


def begin_and_end(turns: Turns) -> None:
    """Take a turn and be ended by an exception that keeps it from being given back."""
    turns.take(sys._getframe())


def test_one_after_the_other() -> None:
    """A second thread waits for the first one's end."""
    turns, done = Turns(), []
    holder = Holder(turns)
    entered = threading.Event()

    def take() -> None:
        entered.set()
        with turns:
            done.append("second")

    second = elsewhere(take)
    assert entered.wait(PATIENCE)
    second.join(0.1)
    done.append("first")
    holder.end()
    second.join(PATIENCE)

    assert ["first", "second"] == done


def test_a_turn_that_was_ended_is_not_waited_for() -> None:
    """By another thread, one that runs on, or this one: the next has its turn at once, and excludes others again."""
    turns = Turns()
    elsewhere(lambda: begin_and_end(turns)).join(PATIENCE)
    with turns:
        assert turns._taken
    begin_and_end(turns)
    Holder(turns).end()
    assert not turns._taken


def test_within_ones_own_turn() -> None:
    """A signal handler that interrupts a turn has its own in it, and does not end the one that it interrupted."""
    turns = Turns()

    def handle() -> None:
        with turns:
            pass

    with turns:
        handle()
        assert turns._taken
    assert not turns._taken


def test_who_runs_out_of_patience_goes_on_and_excludes_others(patience: Callable[[float], None]) -> None:
    """So does each who waited behind it; and one that only took its time ends nobody else's turn."""
    turns = Turns()
    slow = Holder(turns)
    patience(0.01)
    next_one = Holder(turns)
    with turns:
        slow.end()
        next_one.end()
        assert turns._taken[None].thread == threading.get_ident()
    assert not turns._taken


def test_nobody_has_a_turn_in_a_forked_child() -> None:
    """A thread that had it is not there."""
    turns = Turns()
    holder = Holder(turns)
    turns.after_fork_in_child()
    with turns:
        pass
    holder.end()
