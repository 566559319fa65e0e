"""Who of the endpoint's clients has to go first: for another's place, or for the memory of what they do not read."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mpmetrics.http.roster import Roster

if TYPE_CHECKING:
    from collections.abc import Callable

BOUND = 100
BODY = 30


class Client:
    """A connection, as far as the roster asks."""

    def __init__(self, roster: Roster, name: str, gone: list[str]) -> None:
        self._roster = roster
        self._name = name
        self._gone = gone

    def drop(self) -> None:
        """Leave."""
        self._gone.append(self._name)
        self._roster.leave(self)


@pytest.fixture
def gone() -> list[str]:
    """Who was dropped, in order."""
    return []


@pytest.fixture
def roster() -> Roster:
    """A roster that keeps a hundred bytes."""

    async def make() -> Roster:
        return Roster(BOUND)

    return asyncio.run(make())


@pytest.fixture
def come(roster: Roster, gone: list[str]) -> Callable[[str], Client]:
    """Let somebody connect."""

    def come(name: str) -> Client:
        client = Client(roster, name, gone)
        roster.wait(client)
        return client

    return come


@pytest.fixture
def ask(roster: Roster, come: Callable[[str], Client]) -> Callable[..., Client]:
    """Let somebody connect, ask, be sent a body, and not read it."""

    def ask(name: str, body: bytes, *, reads: bool = False) -> Client:
        client = come(name)
        roster.serve(client)
        roster.answer(client, body)
        if not reads:
            roster.stall(client)
        return client

    return ask


def bodies(number: int, size: int = BODY) -> list[bytes]:
    """Equal ones, that are objects of their own."""
    return [bytes(bytearray(size)) for _ in range(number)]


# For a place.


def test_who_keeps_us_waiting_longest_makes_room(
    roster: Roster, come: Callable[[str], Client], ask: Callable[..., Client], gone: list[str]
) -> None:
    """In order of time, whether it is a request that is owed or an answer that is not read; others stay."""
    first = ask("read on", b"x")
    ask("deaf", b"x")
    come("silent")
    ask("deaf later", b"x")
    ask("reads", b"x", reads=True)
    roster.resume(first)
    assert [True, True, True, False] == [roster.evict() for _ in range(4)]
    assert ["deaf", "silent", "deaf later"] == gone
    roster.stall(first)
    assert roster.evict()
    assert "read on" == gone[-1]
    assert 1 == len(roster)


def test_a_stall_before_the_request_changes_nothing(
    roster: Roster, come: Callable[[str], Client], gone: list[str]
) -> None:
    """One that does not even read our side of its handshake owes its request all the same, and since it came."""
    silent = come("silent")
    come("later")
    roster.stall(silent)
    roster.resume(silent)
    assert roster.evict()
    assert ["silent"] == gone


def test_those_who_wait_are_dismissed_and_those_who_do_not_read_get_their_grace(
    roster: Roster, come: Callable[[str], Client], ask: Callable[..., Client], gone: list[str]
) -> None:
    """As the server ends: first those who are owed nothing, then everyone."""
    ask("deaf", b"x")
    come("silent")
    roster.dismiss(everyone=False)
    assert ["silent"] == gone
    roster.dismiss(everyone=True)
    assert ["silent", "deaf"] == gone


# For memory.


def test_the_body_that_nobody_has_read_longest_goes(ask: Callable[..., Client], gone: list[str]) -> None:
    """Each one past the bound costs one, and never more than needed; no body is too many while there are four."""
    for number, body in enumerate(bodies(8)):
        ask(str(number), body)
    assert ["0", "1", "2", "3"] == gone


def test_four_bodies_of_any_size(ask: Callable[..., Client], gone: list[str]) -> None:
    """A body beyond the bound is sent like others, and the fifth costs the first."""
    for number, body in enumerate(bodies(5, BOUND * 10)):
        assert [] == gone
        ask(str(number), body)
    assert ["0"] == gone


def test_a_body_that_is_shared_counts_once(ask: Callable[..., Client], gone: list[str]) -> None:
    """However many are sent it; and it is not what goes while one of them reads."""
    shared, *others = bodies(9)
    for number in range(50):
        ask(f"shared {number}", shared, reads=number == 30)
    for number, body in enumerate(others):
        ask(str(number), body)
    assert ["0", "1", "2", "3", "4"] == gone


def test_all_of_a_body_go_together(ask: Callable[..., Client], gone: list[str]) -> None:
    """To drop some of them would free nothing. The last to have read decides when."""
    first, second, *others = bodies(5)
    ask("first", first)
    ask("second", second)
    ask("first, too", first)
    for number, body in enumerate(others):
        ask(str(number), body)
    assert ["second"] == gone
    ask("more", bytes(bytearray(BODY)))
    assert ["second", "first", "first, too"] == gone


def test_one_that_reads_stays(roster: Roster, ask: Callable[..., Client], gone: list[str]) -> None:
    """Past the bound, too; it goes when it stops reading, if it has to."""
    clients = [ask(str(number), body, reads=True) for number, body in enumerate(bodies(6))]
    assert [] == gone
    roster.stall(clients[3])
    assert ["3"] == gone
    roster.stall(clients[4])
    assert ["3", "4"] == gone
    roster.stall(clients[5])
    assert ["3", "4"] == gone


def test_what_was_read_is_not_kept(roster: Roster, ask: Callable[..., Client], gone: list[str]) -> None:
    """Neither for a connection that waits for its next request nor for one that is gone."""
    kept, left, *others = bodies(8)
    waits = ask("waits", kept, reads=True)
    leaves = ask("leaves", left, reads=True)
    roster.wait(waits)
    roster.leave(leaves)
    for number, body in enumerate(others):
        ask(str(number), body)
    assert ["0", "1"] == gone
    roster.serve(waits)
    roster.answer(waits, kept)  # a second answer counts like the first
    assert ["0", "1", "2"] == gone


def test_much_is_unsent_before_it_is_too_much(roster: Roster, ask: Callable[..., Client], gone: list[str]) -> None:
    """From half of the bound on fewer answers are made."""
    seen = []
    for number, body in enumerate(bodies(4)):
        ask(str(number), body)
        seen.append(roster.is_crowded)
    assert [False, False, True, True] == seen
    assert [] == gone
