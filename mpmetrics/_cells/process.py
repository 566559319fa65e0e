"""The state of one provider in this process; the pure-Python twin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from mpmetrics._cells.maps import wipe_page

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpmetrics._cells.children import Children
    from mpmetrics._cells.files import Where
    from mpmetrics._cells.maps import Map
    from mpmetrics._cells.slab import Slab

__all__ = ["Owner", "Process"]


class Owner(Protocol):
    """Does the rare work for cells; ``mpmetrics.storage.owner`` implements it."""

    def begin(self, counting: bool, /) -> None:  # noqa: FBT001 (called from C)
        """Make a slab and, if ``counting``, claim an ordinal."""

    def catch_up(self) -> None:
        """Apply what other processes removed."""

    def declare_in(self, children: Children, /) -> None:
        """Write the FAMILY record of a metric into the slab."""

    def grow(self, words: int, size: int, /) -> bool:
        """Make room for a series of ``words`` words and ``size`` bytes of records; False when that is impossible."""

    def overflow(self, children: Children, /) -> Any:
        """The series that counts what exceeds the metric's cap."""

    def move_later(self, cell: Any, /) -> None:
        """Move a series whose words are in private memory into the slab once that has room."""


class Process:
    """The state of one provider in this process. ``owner`` does its rare work.

    ``begun`` equals ``token`` while this process has a slab, ``counting`` while it counts under an ordinal; in a forked
    child both are zero. ``seen`` is the last applied generation of removals. ``clock`` returns the Unix time; None: the
    system's. ``time_offset`` is by how many nanoseconds the monotonic clock is ahead of the machine's.
    """

    __slots__ = (
        "_at",
        "_begun",
        "_counting",
        "_generation",
        "_last_time",
        "clock",
        "owner",
        "seen",
        "slab",
        "time_offset",
        "token",
    )

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.clock: Callable[[], float] | None = None
        self.slab: Slab | None = None
        self.token = 0
        self.seen = 0
        self.time_offset = 0
        page = wipe_page()
        self._counting = page[0:1]
        self._begun = page[1:2]
        self._generation: memoryview[int] | None = None
        self._at = 0
        self._last_time = 0

    @property
    def counting(self) -> int:
        """The token, while the process counts under an ordinal."""
        return self._counting[0]

    @counting.setter
    def counting(self, token: int) -> None:
        self._counting[0] = token

    @property
    def begun(self) -> int:
        """The token, while the process has a slab."""
        return self._begun[0]

    @begun.setter
    def begun(self, token: int) -> None:
        self._begun[0] = token

    def watch(self, map: Map | None, index: int) -> None:
        """Use the u64 at word ``index`` of ``map`` as the generation; with None, no longer watch any."""
        words = None if map is None else memoryview(map).cast("B").cast("Q")
        if words is not None and not 0 <= index < len(words):
            msg = f"{map!r} has no word {index}"
            raise ValueError(msg)
        self._at = index
        self._generation = words

    def follow(self, where: Where, metrics: dict[str, Children]) -> None:
        """In C: skip removals of this epoch that end no series of ``metrics``. In Python the owner does that."""

    @property
    def generation(self) -> int:
        """The present generation of removals; 0 if none is watched."""
        words = self._generation
        return 0 if words is None else words[self._at]

    @property
    def is_due(self) -> bool:
        """Whether removals were made that this process has not applied."""
        return _generation(self) != self.seen


def _generation(process: Process) -> int:
    """The generation for a series that is made now."""
    words = process._generation
    return process.seen if words is None else words[process._at]
