"""Which connection is closed first, to free a place or to free the memory of unread answers."""

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
    """The part of a connection that eviction uses."""

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
    """Names of the closed connections, in order."""
    return []


@pytest.fixture
def eviction() -> Eviction:
    """An eviction with a limit of a hundred bytes."""

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
    """Open a connection and send it a body, which it does not read unless `reads`."""

    def ask(name: str, body: bytes, *, reads: bool = False) -> Client:
        client = come(name)
        eviction.serve(client)
        eviction.answer(client, body)
        if not reads:
            eviction.stall(client)
        return client

    return ask


def bodies(number: int, size: int = BODY) -> list[bytes]:
    """Equal bodies, each an object of its own."""
    return [bytes(bytearray(size)) for _ in range(number)]


# Eviction for a place.


def test_the_connection_that_waits_longest_makes_room(
    eviction: Eviction, come: Callable[[str], Client], ask: Callable[..., Client], gone: list[str]
) -> None:
    """Incomplete requests and unread answers share one order, by time; connections that read are not in it."""
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
    """A client that has read a part of its answer goes last (its link may be slow), until its next request."""
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
    """A client that stalls before its request, as in a TLS handshake, keeps its place in the order."""
    silent = come("silent")
    come("later")
    eviction.stall(silent)
    eviction.resume(silent)
    assert eviction.evict()
    assert ["silent"] == gone


def test_a_new_connection_keeps_its_place_for_a_moment(
    eviction: Eviction, come: Callable[[str], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new connection can be closed for another only after the turns and the time that its request may need."""
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
    """A client that sent its request goes after a later client that sent none. Some client can always be evicted."""
    monkeypatch.setattr(eviction_module, "_GRACE", 0.0)
    monkeypatch.setattr(eviction_module, "_GRACE_TO_READ", 60.0)
    ask("deaf", b"x")
    come("silent")
    for _ in range(eviction_module._TURNS):
        eviction.tick()
    assert eviction.can_evict
    assert [True, True, False] == [eviction.evict() for _ in range(3)]
    assert ["silent", "deaf"] == gone


def test_dismiss_closes_waiting_connections_first(
    eviction: Eviction, come: Callable[[str], Client], ask: Callable[..., Client], gone: list[str]
) -> None:
    """`dismiss()` closes only connections without a request; with `everyone`, it closes all."""
    ask("deaf", b"x")
    come("silent")
    eviction.dismiss(everyone=False)
    assert ["silent"] == gone
    eviction.dismiss(everyone=True)
    assert ["silent", "deaf"] == gone


# Eviction for memory.


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client gets no time to begin to read."""
    monkeypatch.setattr(eviction_module, "_TURNS", 0)
    monkeypatch.setattr(eviction_module, "_GRACE_TO_READ", 0.0)


def test_a_new_answer_has_time_to_be_read(ask: Callable[..., Client], gone: list[str]) -> None:
    """New unread answers may reach twice the limit for a moment, so that a crowd does not cost a scraper its answer."""
    for number, body in enumerate(bodies(6)):
        ask(str(number), body)
    assert [] == gone
    for number, body in enumerate(bodies(2), 6):
        ask(str(number), body)
    assert ["0", "1"] == gone


@pytest.mark.usefixtures("at_once")
def test_unread_answers_go_in_order(ask: Callable[..., Client], gone: list[str]) -> None:
    """Each body past the limit closes one connection: the one that has not read for longest."""
    for number, body in enumerate(bodies(8)):
        ask(str(number), body)
    assert ["0", "1", "2", "3"] == gone


@pytest.mark.usefixtures("at_once")
def test_four_bodies_of_any_size_are_kept(ask: Callable[..., Client], gone: list[str]) -> None:
    """Four bodies are kept even if they are far past the limit; a fifth closes the first connection."""
    for number, body in enumerate(bodies(5, BOUND * 10)):
        assert [] == gone
        ask(str(number), body)
    assert ["0"] == gone


@pytest.mark.usefixtures("at_once")
def test_a_body_that_is_shared_counts_once(ask: Callable[..., Client], gone: list[str]) -> None:
    """A body counts once, however many clients it is sent to."""
    shared, *others = bodies(4)
    for number in range(50):
        ask(f"shared {number}", shared)
    for number, body in enumerate(others):
        ask(str(number), body)
    assert [] == gone


@pytest.mark.usefixtures("at_once")
def test_a_connection_that_reads_stays(eviction: Eviction, ask: Callable[..., Client], gone: list[str]) -> None:
    """A connection that reads stays, also past the limit. It may be closed once it stalls."""
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
    """A body no longer counts once its connection waits for the next request or is closed."""
    kept, left, *others = bodies(8)
    waits = ask("waits", kept, reads=True)
    leaves = ask("leaves", left, reads=True)
    eviction.wait(waits)
    eviction.leave(leaves)
    for number, body in enumerate(others):
        ask(str(number), body)
    assert ["0", "1"] == gone
    eviction.serve(waits)
    eviction.answer(waits, kept)  # a second answer counts like the first one
    assert ["0", "1", "2"] == gone
