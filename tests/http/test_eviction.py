"""Which connection is closed first: for the place of another, or for the memory of answers that clients do not read."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mpmetrics.http import eviction as eviction_module
from mpmetrics.http.eviction import Eviction

if TYPE_CHECKING:
    from collections.abc import Callable

BOUND = 100
BODY = 30


class Client:
    """A connection, as far as eviction needs it."""

    def __init__(self, eviction: Eviction, name: str, gone: list[str]) -> None:
        self._eviction = eviction
        self._name = name
        self._gone = gone

    def drop(self) -> None:
        """Close."""
        self._gone.append(self._name)
        self._eviction.leave(self)


@pytest.fixture
def gone() -> list[str]:
    """Names of the connections that were closed, in order."""
    return []


@pytest.fixture
def eviction() -> Eviction:
    """An eviction that keeps a hundred bytes."""

    async def make() -> Eviction:
        return Eviction(BOUND)

    return asyncio.run(make())


@pytest.fixture
def come(eviction: Eviction, gone: list[str]) -> Callable[[str], Client]:
    """Open a connection."""

    def come(name: str) -> Client:
        client = Client(eviction, name, gone)
        eviction.wait(client)
        return client

    return come


@pytest.fixture
def ask(eviction: Eviction, come: Callable[[str], Client]) -> Callable[..., Client]:
    """Open a connection that is sent a body, and does not read it unless `reads`."""

    def ask(name: str, body: bytes, *, reads: bool = False) -> Client:
        client = come(name)
        eviction.serve(client)
        eviction.answer(client, body)
        if not reads:
            eviction.stall(client)
        return client

    return ask


def bodies(number: int, size: int = BODY) -> list[bytes]:
    """Equal bodies that are objects of their own."""
    return [bytes(bytearray(size)) for _ in range(number)]


# For a place.


def test_the_connection_that_waits_longest_makes_room(
    eviction: Eviction, come: Callable[[str], Client], ask: Callable[..., Client], gone: list[str]
) -> None:
    """Incomplete requests and unread answers are in one order, by time; connections that read are not in it."""
    ask("deaf", b"x")
    come("silent")
    ask("deaf later", b"x")
    ask("reads", b"x", reads=True)
    assert [True, True, True, False] == [eviction.evict() for _ in range(4)]
    assert ["deaf", "silent", "deaf later"] == gone
    assert 1 == len(eviction)


def test_clients_that_have_read_a_part_go_last(
    eviction: Eviction, come: Callable[[str], Client], ask: Callable[..., Client], gone: list[str]
) -> None:
    """They may be behind a slow link. With the next request, a connection is like any other."""
    slow, kept = ask("slow", b"x"), ask("kept", b"x")
    for client in (slow, kept):
        eviction.resume(client)
        eviction.stall(client)
    eviction.wait(kept)
    come("new")
    assert [True, True, True, False] == [eviction.evict() for _ in range(4)]
    assert ["kept", "new", "slow"] == gone


def test_a_stall_before_the_request_changes_nothing(
    eviction: Eviction, come: Callable[[str], Client], gone: list[str]
) -> None:
    """A client that does not even read our side of the TLS handshake has been waited for since it came."""
    silent = come("silent")
    come("later")
    eviction.stall(silent)
    eviction.resume(silent)
    assert eviction.evict()
    assert ["silent"] == gone


def test_a_new_connection_keeps_its_place_for_a_moment(
    eviction: Eviction, come: Callable[[str], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be closed for another one only when it had the turns and the time in which its request is read."""
    monkeypatch.setattr(eviction_module, "_GRACE", 0.0)
    assert not eviction.can_evict
    come("new")
    for _ in range(eviction_module._TURNS):
        assert not eviction.can_evict
        eviction.tick()
    assert eviction.can_evict


def test_a_client_that_does_not_read_keeps_its_place_for_longer(
    eviction: Eviction,
    come: Callable[[str], Client],
    ask: Callable[..., Client],
    gone: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client that has sent its request goes after one that came later and has not; one goes in any case."""
    monkeypatch.setattr(eviction_module, "_GRACE", 0.0)
    monkeypatch.setattr(eviction_module, "_GRACE_TO_READ", 60.0)
    ask("deaf", b"x")
    come("silent")
    for _ in range(eviction_module._TURNS):
        eviction.tick()
    assert eviction.can_evict
    assert [True, True, False] == [eviction.evict() for _ in range(3)]
    assert ["silent", "deaf"] == gone


def test_the_server_ends_with_those_that_wait_and_then_with_all(
    eviction: Eviction, come: Callable[[str], Client], ask: Callable[..., Client], gone: list[str]
) -> None:
    """Connections without a request are closed first; those that are being answered have their grace."""
    ask("deaf", b"x")
    come("silent")
    eviction.dismiss(everyone=False)
    assert ["silent"] == gone
    eviction.dismiss(everyone=True)
    assert ["silent", "deaf"] == gone


# For memory.


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not read has no time to begin."""
    monkeypatch.setattr(eviction_module, "_TURNS", 0)
    monkeypatch.setattr(eviction_module, "_GRACE_TO_READ", 0.0)


def test_a_new_answer_has_time_to_be_read(ask: Callable[..., Client], gone: list[str]) -> None:
    """The limit may be passed for that moment, up to twice, so that a crowd does not cost a scraper its answer."""
    for number, body in enumerate(bodies(6)):
        ask(str(number), body)
    assert [] == gone
    for number, body in enumerate(bodies(2), 6):
        ask(str(number), body)
    assert ["0", "1"] == gone


@pytest.mark.usefixtures("at_once")
def test_unread_answers_go_in_order(ask: Callable[..., Client], gone: list[str]) -> None:
    """Each body past the limit costs the connection that has not read for longest, and no more."""
    for number, body in enumerate(bodies(8)):
        ask(str(number), body)
    assert ["0", "1", "2", "3"] == gone


@pytest.mark.usefixtures("at_once")
def test_four_bodies_of_any_size(ask: Callable[..., Client], gone: list[str]) -> None:
    """Bodies far past the limit are kept while there are four, and the fifth costs the first."""
    for number, body in enumerate(bodies(5, BOUND * 10)):
        assert [] == gone
        ask(str(number), body)
    assert ["0"] == gone


@pytest.mark.usefixtures("at_once")
def test_a_body_that_is_shared_counts_once(ask: Callable[..., Client], gone: list[str]) -> None:
    """However many clients are sent it."""
    shared, *others = bodies(4)
    for number in range(50):
        ask(f"shared {number}", shared)
    for number, body in enumerate(others):
        ask(str(number), body)
    assert [] == gone


@pytest.mark.usefixtures("at_once")
def test_a_connection_that_reads_stays(eviction: Eviction, ask: Callable[..., Client], gone: list[str]) -> None:
    """Past the limit, too; it goes when it stops reading, if it has to."""
    clients = [ask(str(number), body, reads=True) for number, body in enumerate(bodies(6))]
    assert [] == gone
    eviction.stall(clients[3])
    assert ["3"] == gone
    eviction.stall(clients[4])
    assert ["3", "4"] == gone
    eviction.stall(clients[5])
    assert ["3", "4"] == gone


@pytest.mark.usefixtures("at_once")
def test_what_was_read_does_not_count(eviction: Eviction, ask: Callable[..., Client], gone: list[str]) -> None:
    """Neither for a connection that waits for its next request nor for one that is closed."""
    kept, left, *others = bodies(8)
    waits = ask("waits", kept, reads=True)
    leaves = ask("leaves", left, reads=True)
    eviction.wait(waits)
    eviction.leave(leaves)
    for number, body in enumerate(others):
        ask(str(number), body)
    assert ["0", "1"] == gone
    eviction.serve(waits)
    eviction.answer(waits, kept)  # a second answer counts like the first
    assert ["0", "1", "2"] == gone
