"""After a fork, by Python or by C, each process has series of its own and does not touch the other's."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any

import pytest

from mpmetrics.storage import format as fmt

if TYPE_CHECKING:
    from collections.abc import Callable

LIBC = ctypes.PyDLL(None)  # keeps the GIL at a fork; else the child could wait for ever for another thread's GIL


@pytest.mark.parametrize("fork", [LIBC.fork, os.fork], ids=["libc", "os"])
def test_a_forked_child_has_words_of_its_own(
    owner: Any, fork: Callable[[], int], forked: Any, distribution: Any
) -> None:
    """A child, and a child's child, begin with zeros, and their parent's words do not change."""
    owner.map = None
    counter, gauge, sizes = owner.cells()
    counter.inc(5)
    gauge.set(7)
    sizes.observe(1.5)
    mine = owner.map

    def act() -> int:
        counter.inc()
        gauge.inc()
        sizes.observe(0.5)
        new = counter._children.make(("y",))
        new.inc()
        is_right = ([1.0], [1.0], (0.5, 1, 0, 0)) == (counter.values(), gauge.values(), distribution(sizes.values()))
        return 10 + forked(lambda: counter.inc() or int(counter.values()[0])) if is_right and new.place else 0

    assert 11 == forked(act, fork)
    counter.inc()
    assert owner.map is mine
    assert ([6.0], [7.0], (1.5, 0, 1, 0)) == (counter.values(), gauge.values(), distribution(sizes.values()))
    assert 3 == len(owner.series())


def test_a_child_touches_nothing_of_its_parent(twin: Any, owners: Any, forked: Any) -> None:
    """Parent and child map the same slab file: the child's operations leave it unchanged."""
    descriptor = os.memfd_create("slab")
    os.ftruncate(descriptor, fmt.SLAB_SIZE)
    owner = owners(twin, descriptor=descriptor)
    metric = owner.metric()
    one, two, three = (metric.make((key,)) for key in "abc")
    one.inc(5)
    two.inc(5)
    before = os.pread(descriptor, 1 << 16, 0), os.pread(descriptor, 1 << 16, fmt.AREA_0)
    owner.descriptor = -1  # a child's slab is another one

    def act() -> bool:
        metric.end(("a",))
        metric.move(three)
        one.inc()
        two.inc()
        metric.make(("d",)).inc()
        metric.end(("b",))
        return [1.0] == metric.get(("d",)).values() and one.gone and two.gone

    assert 1 == forked(act)
    assert before == (os.pread(descriptor, 1 << 16, 0), os.pread(descriptor, 1 << 16, fmt.AREA_0))
    os.close(descriptor)


@pytest.mark.parametrize("step", ["begin", "declare_in", "grow"])
def test_a_fork_within_a_call_to_the_owner(owner: Any, step: str) -> None:
    """After a fork in any call to the owner, both processes continue with series of their own."""
    metric = owner.metric("SketchCell")
    inner = getattr(owner, step)
    if step == "grow":
        owner.fill()
        inner = lambda *_: owner.give_room() or True  # noqa: E731 (in the place of the method)
    children: list[int] = []

    def act(*arguments: Any) -> Any:
        if not children:
            children.append(LIBC.fork())
        return inner(*arguments)

    setattr(owner, step, act)
    cell = metric.make(("a",))
    cell.update(1)
    is_right = 1 == len(owner.series()) == sum(cell.values()[12:])
    if children == [0]:
        os._exit(int(is_right))

    assert is_right
    assert 1 == os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1])


def test_an_ended_series_stays_private_after_a_fork(owner: Any, forked: Any) -> None:
    """What an ended cell counts after a fork stays in each process."""
    metric = owner.metric()
    cell = metric.make(("a",))
    metric.end(("a",))

    assert 3 == forked(lambda: (cell.inc(3), cell.values()[0])[1])
    assert [0.0] == cell.values()


def test_a_child_of_a_private_provider_keeps_its_copy(owner: Any, forked: Any) -> None:
    """If the owner keeps the inherited slab in memory, the child keeps its copy of the values."""
    counter, _, _ = owner.cells()
    counter.inc(5)

    def begin(counting: bool) -> None:  # noqa: FBT001 (as the owner's)
        owner.process.begun = owner.process.token
        if counting:
            owner.process.counting = owner.process.token

    owner.begin = begin
    assert 6 == forked(lambda: (counter.inc(), counter.values()[0])[1])
    assert [5.0] == counter.values()
