"""The start of an epoch, joining one, and the takeover of guests, disturbed at every step."""

from __future__ import annotations

import errno
import os
import random
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics.errors import StoreUnavailableError
from mpmetrics.storage import store as store_module
from mpmetrics.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

ACTIONS: dict[str, Callable[[str], Any]] = {
    "begin": lambda path: Store(path).begin(),
    "join": lambda path: Store(path).join(),
}

BOTH = pytest.mark.parametrize("name", list(ACTIONS))


@pytest.fixture
def places(world: Any) -> Callable[[], str]:
    """Names for stores, each in a directory of its own; what a dead server left is there already."""
    count = 0

    def make() -> str:
        nonlocal count
        count += 1
        path = f"{os.path.dirname(world.path)}/other-{count}/store"  # noqa: PTH120
        Path(path).parent.mkdir()
        if count % 2:
            outcome = world.child(lambda _: Store(path).begin() and None)
            assert outcome.status == 0, outcome.said
            Path(f"{path}/new-epoch-left").mkdir()
        return path

    return make


def check(world: Any, path: str, what: str) -> None:
    """Fail unless the next server begins, counts, and finds nothing that the dead one left."""

    def go_on(_: Any) -> object:
        provider = mpmetrics.Provider(path, epoch=Store(path).begin().number)
        mpmetrics.Counter("later", "Later.", provider=provider).inc()
        assert [] == list(provider.memory.private_maps())
        names = sorted(os.listdir(path))
        values = {
            sample.name: sample.value for family in mpmetrics.Collector(provider).collect() for sample in family.samples
        }
        assert values["later_total"] == 1.0
        return names

    outcome = world.child(go_on)
    assert outcome.status == 0, f"{what}: {outcome.said}"
    assert [name for name in outcome.said if not name.startswith("epoch-")] == ["lock"], what
    assert len(outcome.said) == 2, what


def sample(whole: list[Any], size: int) -> list[Any]:
    """So many of them, evenly spread; in the long form all."""
    step = 1 if float(os.environ.get("MPMETRICS_TORTURE_SECONDS") or 0) else -(-len(whole) // size) or 1
    return whole[random.randrange(step) :: step]


def sweep_kills(world: Any, places: Any, failpoints: Any, action: Callable[[str], object]) -> int:
    """Kill a process at every point of ``action``; returns how often."""

    def profile(_: Any) -> object:
        with failpoints() as points:
            action(path)
        return [(point.function, point.place, point.time) for point in points.passed if point.time == 1]

    path = places()
    points = world.child(profile).said
    killed = 0
    for fields in sample(points, 40):
        path = places()

        def die(_: Any, path: str = path, fields: Any = fields) -> None:
            with failpoints() as here:
                here._point, here._act = _At(fields), lambda: os.kill(os.getpid(), signal.SIGKILL)
                action(path)

        killed += world.child(die).status == -signal.SIGKILL
        check(world, path, f"killed at {fields}")
    return killed


class _At:
    """Equals the point of these fields."""

    def __init__(self, fields: list[Any]) -> None:
        self._fields = tuple(fields)

    def __eq__(self, other: object) -> bool:
        return (other.function, other.place, other.time) == self._fields  # type: ignore[attr-defined]

    __hash__ = None  # type: ignore[assignment]


@BOTH
def test_killed_anywhere(name: str, world: Any, places: Any, failpoints: Any, tally: Any) -> None:
    """After a kill before any line, the next server begins in the store and finds nothing left over."""
    killed = sweep_kills(world, places, failpoints, ACTIONS[name])
    tally(killed)
    assert killed > 5


class Guest:
    """A process that is part of a store without a server, and counts one whenever it is told to."""

    def __init__(self, path: str, fork: Callable[..., Any], gate: Callable[[], Any]) -> None:
        self._turn, self._counted, self._end = gate(), gate(), gate()
        self._process = fork(self._work, path)
        self.count()

    def _work(self, path: str) -> None:
        provider = mpmetrics.Provider(path)
        guests = mpmetrics.Counter("guests", "Of guests.", ["way"], provider=provider)
        self._turn.wait()
        while not self._end.is_open:
            guests.labels("way").inc()
            self._counted.open()
            self._turn.wait()

    def count(self) -> None:
        """Have it count one."""
        self._turn.open()
        self._counted.wait()

    def end(self) -> None:
        """Have it end, and close its files: a whole sweep has hundreds of guests."""
        self._end.open()
        self._turn.open()
        self._process.result()
        for each in (self._turn, self._counted, self._end):
            each.close()


@pytest.fixture
def take_over(world: Any, failpoints: Any, fork: Any, gate: Any) -> Callable[[], int]:
    """Kills servers that begin beside a living guest, at every point; returns how many."""

    def shown(path: str, guest: Guest) -> float:
        """What the next server shows of the guest that counted once before, once after the kill, and once now."""
        provider = mpmetrics.Provider(path, epoch=Store(path).begin().number)
        guest.count()
        samples = [sample for family in mpmetrics.Collector(provider).collect() for sample in family.samples]
        return sum(sample.value for sample in samples if sample.name == "guests_total")

    def sweep() -> int:
        killed, points = 0, [None]
        while points:
            fields = points.pop()
            path = f"{os.path.dirname(world.path)}/guests-{killed}-{len(points)}"  # noqa: PTH120
            guest = Guest(path, fork, gate)

            def begin(_: Any, path: str = path, fields: Any = fields) -> object:
                with failpoints() as here:
                    if fields:
                        here._point, here._act = _At(fields), lambda: os.kill(os.getpid(), signal.SIGKILL)
                    Store(path).begin()
                return [(point.function, point.place, point.time) for point in here.passed if point.time == 1]

            outcome = world.child(begin)
            if fields is None:
                assert outcome.status == 0, outcome.said
                points = sample(outcome.said, 20)
            killed += outcome.status == -signal.SIGKILL
            guest.count()
            assert 2 <= fork(shown, path, guest).result() <= 3, f"killed at {fields}"
            guest.end()
        return killed

    return sweep


def test_guests_are_taken_over_although_servers_are_killed(take_over: Callable[[], int], tally: Any) -> None:
    """A server that is killed before any line while it takes over guests loses none of their later counts."""
    killed = take_over()
    tally(killed)
    assert killed > 5


def test_the_sweep_finds_a_guest_whose_slab_is_left_behind(
    take_over: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a guest moves to the new epoch without its slab, so its counts are lost."""
    monkeypatch.setattr(Store, "_link_slabs", lambda *_, **__: None)
    with pytest.raises(AssertionError, match="killed at"):
        take_over()


@BOTH
def test_an_error_anywhere(name: str, world: Any, places: Any, calls: Any, errors: tuple[int, ...], tally: Any) -> None:
    """When a system call fails, the start works or raises StoreUnavailableError, and the next try works."""
    action = ACTIONS[name]

    def count(_: Any) -> object:
        with calls() as made:
            action(path)
        return made.made

    path = places()
    made = world.child(count).said
    failed = 0
    for at, error in sample([(at, error) for at in range(len(made)) for error in errors], 60):
        path = places()

        def attempt(_: Any, path: str = path, at: int = at, error: int = error) -> object:
            before = len(os.listdir("/proc/self/fd"))
            raised = None
            try:
                with calls(at, error):
                    made = action(path)
                made.close()
            except StoreUnavailableError as problem:
                raised = str(problem)
            return raised, len(os.listdir("/proc/self/fd")) - before

        outcome = world.child(attempt)
        what = f"{errno.errorcode[error]} from call {at}, {made[at]}"
        assert outcome.status == 0, f"{what}: {outcome.said}"
        raised, leaked = outcome.said
        failed += raised is not None
        assert leaked == 0, f"{what}: leaks descriptors"
        check(world, path, what)
    tally(failed)
    assert failed > 5


def test_the_sweep_finds_an_epoch_that_is_not_whole(
    world: Any, places: Any, failpoints: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: an epoch that is made under its final name is found half made."""
    secrets = type("Secrets", (), {"token_hex": staticmethod(lambda _: "1")})
    monkeypatch.setattr(store_module, "secrets", secrets)
    monkeypatch.setattr(Store, "_remove_leftovers", lambda _: None)
    with pytest.raises(AssertionError):
        sweep_kills(world, places, failpoints, ACTIONS["begin"])


def test_the_sweep_finds_an_error_of_another_kind(
    world: Any, places: Any, calls: Any, errors: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: an OSError that is not turned into StoreUnavailableError."""
    monkeypatch.setattr(Store, "_locked", lambda _, action: action())
    with pytest.raises(AssertionError):
        test_an_error_anywhere("begin", world, places, calls, errors, lambda _: None)
