"""`Turns`: one thread after the other, none waits for long, and an abandoned turn does not block others."""

from __future__ import annotations

import threading

import pytest

from mpmetrics.turns import Turns

PATIENCE = 60.0
"""Seconds that nobody waits for here: a test in which a thread did runs into its own limit."""


class Holder:
    """Another thread that has its turn until it is told to end it."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._began, self._goes_on = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()
        assert self._began.wait(PATIENCE)

    def _take(self) -> None:
        with self._turns:
            self._began.set()
            self._goes_on.wait(PATIENCE)

    def end(self) -> None:
        """Have it end its turn."""
        self._goes_on.set()
        self._thread.join(PATIENCE)


def test_one_after_the_other() -> None:
    """A second thread waits for the first one's end."""
    turns, done = Turns(PATIENCE), []
    holder = Holder(turns)
    entered = threading.Event()

    def take() -> None:
        entered.set()
        with turns:
            done.append("second")

    second = threading.Thread(target=take, daemon=True)
    second.start()
    assert entered.wait(PATIENCE)
    second.join(0.1)
    done.append("first")
    holder.end()
    second.join(PATIENCE)

    assert ["first", "second"] == done


@pytest.mark.parametrize("elsewhere", [False, True])
def test_an_abandoned_turn_is_waited_for_once(*, elsewhere: bool) -> None:
    """An exception kept it from being given back: the next thread is out of patience once, those after it wait not."""
    turns = Turns(0.05)
    taken, ending = threading.Event(), threading.Event()

    def abandon() -> None:
        turns.__enter__()
        taken.set()

    def abandon_and_live() -> None:
        abandon()
        ending.wait(PATIENCE)

    if elsewhere:
        threading.Thread(target=abandon_and_live, daemon=True).start()
        assert taken.wait(PATIENCE)
    else:
        abandon()
    Holder(turns).end()
    assert not turns._taken

    turns._patience = PATIENCE
    Holder(turns).end()
    ending.set()


def test_within_ones_own_turn() -> None:
    """A signal handler that interrupts a turn has its own in it, and does not end the one that it interrupted."""
    turns = Turns(PATIENCE)

    def handle() -> None:
        with turns:
            pass

    with turns:
        handle()
        assert turns._taken
    assert not turns._taken


def test_a_thread_out_of_patience_goes_on_and_ends_no_other_turn() -> None:
    """A thread that only took its time does not end the turn of one that came after it."""
    turns = Turns(PATIENCE)
    slow = Holder(turns)
    turns._patience = 0.01
    next_one = Holder(turns)
    turns._patience = PATIENCE
    before = dict(turns._taken)
    slow.end()
    assert before == turns._taken
    next_one.end()


def test_nobody_has_a_turn_in_a_forked_child() -> None:
    """A thread that had it is not there."""
    turns = Turns(PATIENCE)
    holder = Holder(turns)
    turns.after_fork_in_child()
    with turns:
        pass
    holder.end()
