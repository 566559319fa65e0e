"""A new server takes over the guests of a dead one: each harmful interleaving, with a control."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics.storage import store as store_module
from mpmetrics.storage.epoch import lock_if_dead
from mpmetrics.storage.shared import Shared
from mpmetrics.storage.store import Store
from mpmetrics.storage.waiting import WaitingRoom

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Peek = Callable[[str], dict[str, float]]


class Guest:
    """A guest process, for which a provider stands."""

    def __init__(self, store: str, epoch: int | None = None) -> None:
        self.provider = mpmetrics.Provider(store, epoch=epoch)

    def count(self, kind: str, amount: float = 1) -> None:
        """Look up a series and count in it."""
        mpmetrics.Counter("tasks", "x", ["kind"], provider=self.provider).labels(kind).inc(amount)

    @property
    def epoch(self) -> str:
        """The directory of its epoch."""
        assert self.provider.epoch is not None
        return str(self.provider.epoch.path)


@pytest.fixture
def guests(store_dir: str) -> Iterator[Callable[..., Guest]]:
    """Makes guests."""
    made: list[Guest] = []

    def make(epoch: int | None = None) -> Guest:
        made.append(Guest(store_dir, epoch))
        return made[-1]

    yield make
    for each in made:
        each.provider.shutdown()


@pytest.fixture
def after_the_rename(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], object]], None]:
    """Calls a function right after a new epoch gets its name."""

    def set_up(act: Callable[[str], object]) -> None:
        rename = os.rename

        def rename_and_act(source: str, target: str) -> None:
            rename(source, target)
            act(target)

        monkeypatch.setattr(os, "rename", rename_and_act)

    return set_up


def tasks(values: dict[str, float]) -> dict[str, float]:
    """The shown values of the guests, by label value."""
    return {
        name.removeprefix("tasks_total{kind=").rstrip("}"): value
        for name, value in values.items()
        if name.startswith("tasks_total{")
    }


def _only(link: Any, *, only_living: bool) -> Any:
    """Do only one of the two passes that link slabs: before the epoch has its name, or after its announcement."""

    def link_once(*given: Any, **named: bool) -> None:
        if named["only_living"] == only_living:
            link(*given, only_living=True)

    return link_once


@pytest.mark.parametrize("holds", [True, False], ids=["", "control"])
def test_an_epoch_lives_from_its_first_moment_on(
    holds: bool,  # noqa: FBT001 (whether the protection is in place)
    store_dir: str,
    after_the_rename: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An epoch's lease is held when the epoch gets its name; else (control) another process takes it for dead."""
    found = []

    def look(epoch: str) -> None:
        with lock_if_dead(epoch) as is_dead:
            found.append(is_dead)

    after_the_rename(look)
    if not holds:
        monkeypatch.setattr(store_module, "hold_shared", lambda *_: None)
    Store(store_dir).begin().close()

    assert [not holds] == found


@pytest.mark.parametrize("moves_at_once", [True, False])
@pytest.mark.parametrize("links_again", [True, False], ids=["", "control"])
def test_a_slab_that_is_made_while_a_server_begins_is_read(
    links_again: bool,  # noqa: FBT001 (whether the protection is in place)
    moves_at_once: bool,  # noqa: FBT001 (the case)
    guests: Callable[[], Guest],
    store_dir: str,
    after_the_rename: Callable[..., None],
    peek: Peek,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A guest's slab made after the server's first listing and before its announcement is shown."""
    early, late = guests(), guests()
    early.count("early")
    after_the_rename(lambda _: late.count("late", 5))
    announce, link = Store._announce, Store._link_slabs

    def announce_and_wait(self: Store, number: int, successor: int) -> None:
        announce(self, number, successor)
        if moves_at_once:
            late.count("moved", 7)

    monkeypatch.setattr(Store, "_announce", announce_and_wait)
    if not links_again:
        monkeypatch.setattr(Store, "_link_slabs", _only(link, only_living=True))
    server = Store(store_dir).begin()

    expected = {"early": 1.0} | ({"late": 5.0} if links_again else {}) | ({"moved": 7.0} if moves_at_once else {})
    assert expected == tasks(peek(server.path))
    late.count("later")
    assert late.epoch == server.path
    assert expected | {"later": 1.0} == tasks(peek(server.path))
    server.close()


@pytest.mark.parametrize("links_before", [True, False], ids=["", "control"])
def test_slabs_are_linked_before_their_owners_join_the_successor(
    links_before: bool,  # noqa: FBT001 (whether the protection is in place)
    guests: Callable[[], Guest],
    store_dir: str,
    peek: Peek,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A guest joins the successor as soon as it can: its earlier values still count as a living process's."""
    guest = guests()
    guest.count("before", 5)
    announce, link = Store._announce, Store._link_slabs

    def announce_and_move(self: Store, number: int, successor: int) -> None:
        announce(self, number, successor)
        guest.count("after", 7)

    monkeypatch.setattr(Store, "_announce", announce_and_move)
    if not links_before:
        monkeypatch.setattr(Store, "_link_slabs", _only(link, only_living=False))
    server = Store(store_dir).begin()

    assert ({"before": 5.0} if links_before else {}) | {"after": 7.0} == tasks(peek(server.path))
    server.close()


@pytest.mark.parametrize("is_right", [True, False], ids=["", "control"])
def test_the_successor_is_stored_before_the_generation(
    is_right: bool,  # noqa: FBT001 (whether the protection is in place)
    guests: Callable[[], Guest],
    store_dir: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A guest that looks between the two stores joins the successor then or at its next look-up."""
    guest = guests()
    guest.count("before")
    store = Shared._store

    def store_and_look(self: Shared, word: int, value: bytes) -> None:
        store(self, word, value)
        guest.count("between")

    def announce_hastily(self: Store, number: int, successor: int) -> None:
        shared = Shared(store_module.Directory.at(self.epoch_path(number)))
        shared.generation += 1
        shared.successor = successor

    monkeypatch.setattr(Shared, "_store", store_and_look)
    if not is_right:
        monkeypatch.setattr(Store, "_announce", announce_hastily)
    server = Store(store_dir).begin()
    guest.count("after")

    assert is_right == (guest.epoch == server.path)
    server.close()


@pytest.mark.parametrize("knows", [True, False], ids=["", "control"])
def test_removals_of_the_new_epoch_end_the_guests_series(
    knows: bool,  # noqa: FBT001 (whether the protection is in place)
    guests: Callable[[], Guest],
    store_dir: str,
    peek: Peek,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A new epoch's generations continue those of the guests' epochs, so removals end idle guests' series."""
    idle = guests()
    for number in range(3):
        idle.count("gone")
        mpmetrics.Counter("tasks", "x", ["kind"], provider=idle.provider).remove("gone")
        idle.count("held", number)
        idle.count("gone")
    if not knows:
        monkeypatch.setattr(Store, "_first_generation", lambda *_: 0)
    server = Store(store_dir).begin()
    other = mpmetrics.Provider.deferred()
    other.attach(server)
    mpmetrics.Counter("tasks", "x", ["kind"], provider=other).remove("gone")

    assert {"held": 3.0} | ({} if knows else {"gone": 1.0}) == tasks(peek(server.path))
    other.shutdown()


@pytest.mark.parametrize("gives_way", [True, False], ids=["", "control"])
def test_a_newcomer_may_have_the_ordinal_of_a_guest(
    gives_way: bool,  # noqa: FBT001 (whether the protection is in place)
    guests: Callable[[], Guest],
    store_dir: str,
    after_the_rename: Callable[..., None],
    peek: Peek,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process of the old epoch and one of the new may have the same ordinal while a server begins: both are shown."""
    old = guests()

    def come(_: str) -> None:
        old.count("old")
        guests().count("new")

    after_the_rename(come)
    if not gives_way:
        monkeypatch.setattr(store_module.itertools, "count", lambda ordinal: (ordinal,))
    server = Store(store_dir).begin()

    assert {"new": 1.0} | ({"old": 1.0} if gives_way else {}) == tasks(peek(server.path))
    server.close()


def test_values_that_wait_are_there_after_a_restart(
    store_dir: str, guests: Callable[..., Guest], peek: Peek, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values that waited when the server died are in the store after their guest joined the next epoch."""
    monkeypatch.setattr(WaitingRoom, "open", lambda _: None)
    guest = guests()
    guest.count("kind-0")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    for number in range(300):
        guest.count(f"kind-{number}")
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(tasks(peek(guest.epoch))) < 300

    server = Store(store_dir).begin()
    guest.count("kind-0")
    assert server.path == guest.epoch
    assert {f"kind-{number}": 1 + 2 * (number == 0) for number in range(300)} == tasks(peek(server.path))
    server.close()


def test_a_process_that_a_worker_started_outlives_the_server(
    store_dir: str, guests: Callable[..., Guest], peek: Peek
) -> None:
    """A process that a worker starts joins the epoch by its number, but is a guest and outlives the server."""
    server = Store(store_dir).begin()
    guest = guests(server.number)
    guest.count("before")
    server.close()
    server = Store(store_dir).begin()
    guest.count("after", 2)

    assert {"before": 1, "after": 2} == tasks(peek(server.path))
    server.close()
