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
    """What the cells come to for what is rare."""

    def begin(self, counting: bool, /) -> None:  # noqa: FBT001 (called from C)
        """Have a slab, and if this process is ``counting``, an ordinal."""

    def catch_up(self) -> None:
        """Take in what other processes removed."""

    def declare_in(self, children: Children, /) -> None:
        """Write the FAMILY record of a metric into the slab."""

    def grow(self, words: int, size: int, /) -> bool:
        """Have room for a series of so many words and records of so many bytes; False when there is none."""

    def overflow(self, children: Children, /) -> Any:
        """The series of what is past the metric's cap."""

    def move_later(self, cell: Any, /) -> None:
        """Have a series, whose words are in memory, moved into the slab when that has room."""


class Process:
    """The state of one provider in this process, for whose rare needs there is ``owner``.

    ``counting`` and ``begun`` are the ``token`` while this process counts, and has a slab; in a forked child they are
    zero. ``seen`` is the generation of removals that has been taken in. ``clock`` tells the Unix time; None: the
    system's does. ``time_offset`` is by how many nanoseconds the monotonic clock is ahead of the machine's.
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
        """The token, while it counts under an ordinal."""
        return self._counting[0]

    @counting.setter
    def counting(self, token: int) -> None:
        self._counting[0] = token

    @property
    def begun(self) -> int:
        """The token, while it has a slab."""
        return self._begun[0]

    @begun.setter
    def begun(self, token: int) -> None:
        self._begun[0] = token

    def watch(self, map: Map | None, index: int) -> None:
        """From now on the u64 at word ``index`` of ``map`` is the generation; of None, nothing is."""
        words = None if map is None else memoryview(map).cast("B").cast("Q")
        if words is not None and not 0 <= index < len(words):
            msg = f"there is no word {index} in {map!r}"
            raise ValueError(msg)
        self._at = index
        self._generation = words

    def follow(self, where: Where, metrics: dict[str, Children]) -> None:
        """Pass over the removals in this epoch that end no series of ``metrics``: here the owner does that."""

    @property
    def generation(self) -> int:
        """The generation of removals now; 0 where none is watched."""
        words = self._generation
        return 0 if words is None else words[self._at]

    @property
    def is_due(self) -> bool:
        """Whether there were removals that this process has not taken in."""
        return _generation(self) != self.seen


def _generation(process: Process) -> int:
    """The generation that a series made now carries."""
    words = process._generation
    return process.seen if words is None else words[process._at]
