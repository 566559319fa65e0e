"""`Turns`: threads take turns, none waits for long, and an abandoned turn does not block others."""

from __future__ import annotations

import threading

import pytest

from mpmetrics.turns import Turns

PATIENCE = 60.0
"""Seconds that nobody waits for here: a test in which a thread did runs into its own limit."""


class Holder:
    """Another thread, which holds its turn until ``end``."""

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
        """End the thread's turn."""
        self._goes_on.set()
        self._thread.join(PATIENCE)


def test_a_second_thread_waits_for_the_first() -> None:
    """A second thread waits until the first one's turn ends."""
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
def test_only_one_thread_waits_for_an_abandoned_turn(*, elsewhere: bool) -> None:
    """After an exception prevented the end of a turn, the next thread waits the full time, later ones not at all."""
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


def test_a_signal_handlers_turn_within_a_turn() -> None:
    """A signal handler that interrupts a turn has a turn of its own, and does not end the interrupted one."""
    turns = Turns(PATIENCE)

    def handle() -> None:
        with turns:
            pass

    with turns:
        handle()
        assert turns._taken
    assert not turns._taken


def test_a_thread_that_waited_too_long_ends_no_other_turn() -> None:
    """A thread whose turn was taken as abandoned does not end a later thread's turn."""
    turns = Turns(PATIENCE)
    slow = Holder(turns)
    turns._patience = 0.01
    next_one = Holder(turns)
    turns._patience = PATIENCE
    before = dict(turns._taken)
    slow.end()
    assert before == turns._taken
    next_one.end()


def test_no_thread_has_a_turn_in_a_forked_child() -> None:
    """A turn of a parent's thread does not exist in a forked child."""
    turns = Turns(PATIENCE)
    holder = Holder(turns)
    turns.after_fork_in_child()
    with turns:
        pass
    holder.end()
