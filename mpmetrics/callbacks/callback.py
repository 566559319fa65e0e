"""Callbacks that are to be run when somebody looks, and the registry of those of one provider."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mpmetrics.log_once import LogOnce

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mpmetrics.names.family import Family, Key

__all__ = [
    "DEFAULT_TIMEOUT",
    "Callback",
    "Callbacks",
    "Scope",
    "Target",
    "check_callback",
    "check_limits",
]

Scope = Literal["host", "worker"]
"""Where a callback runs: once for the whole server, in its collector, or in every worker."""

DEFAULT_TIMEOUT = 5.0
"""Seconds that a callback may take unless told otherwise."""


class Target(Protocol):
    """A metric that callbacks observe; the methods are called by one thread at a time."""

    @property
    def family(self) -> Family:
        """The metric as all processes agree on it."""

    @property
    def max_series(self) -> int:
        """Series that it may have."""

    def key_of(self, attributes: Mapping[str, object] | None) -> Key:
        """Label values of the series with these attributes; TypeError or ValueError when they are none."""

    def add(self, key: Key, amount: float) -> Key:
        """Move the stored total of a series; returns which one, which past the cap is the overflow series."""

    def resolve(self, key: Key) -> Key:
        """The series that takes what is observed of this one: itself, or past the cap the overflow series."""

    def put(self, key: Key, value: float) -> None:
        """Store what this process observed of a series."""

    def withdraw(self, key: Key) -> None:
        """That series is observed here no more: take the value back, unless it is a total that has to stay."""

    def place(self, key: Key) -> int | None:
        """First word of a series in this process's slab, None when it is not there."""


@dataclass(eq=False)
class Callback:
    """A function that observes ``targets``, one if it is an instrument's own (``is_single``).

    ``name`` tells it apart in figures and messages. It may take ``timeout`` seconds. What it observed is used again for
    ``max_age`` seconds; None leaves that to the collector. ``module`` is where the function was defined.
    """

    name: str
    function: Callable[[Any], object]
    targets: tuple[Target, ...]
    is_single: bool
    scope: Scope = "host"
    timeout: float = DEFAULT_TIMEOUT
    max_age: float | None = None
    module: str = ""
    _log: LogOnce = field(default_factory=LogOnce)

    def warn(self, cause: str, message: str, error: BaseException | None = None) -> None:
        """Log a message about this callback, once for each cause."""
        self._log.warn(cause, "callback %s: %s", self.name, message, error=error)


class Callbacks:
    """The callbacks of one provider in this process. Any thread may call its methods."""

    def __init__(self) -> None:
        self._callbacks: dict[object, Callback] = {}
        self.on_added: Callable[[Callback], object] | None = None
        """Called with each new one."""
        self.on_removed: Callable[[Callback], object] | None = None
        """Called with each that was taken back."""

    def add(self, callback: Callback, token: object = None) -> None:
        """Have it run from the next collection on, in the place of the one that was added with this token, if any."""
        self._callbacks[callback if token is None else token] = callback
        if self.on_added is not None:
            self.on_added(callback)

    def free_name(self, name: str) -> str:
        """``name``, or with a number behind it when another callback has it already."""
        taken = {callback.name for callback in self}
        number = 2
        free = name
        while free in taken:
            free = f"{name}#{number}"
            number += 1
        return free

    def remove(self, callback: Callback) -> None:
        """Do not run it any more; nothing happens when it is not there."""
        for token, held in list(self._callbacks.items()):
            if held is callback:
                self._callbacks.pop(token, None)
                if self.on_removed is not None:
                    self.on_removed(callback)

    def clear(self) -> None:
        """Forget all of them."""
        self._callbacks.clear()

    def of(self, scope: Scope) -> list[Callback]:
        """In the order in which they run: instruments' own first, each kind in the order of registration."""
        callbacks = [callback for callback in list(self._callbacks.values()) if callback.scope == scope]
        return sorted(callbacks, key=lambda callback: not callback.is_single)

    def __iter__(self) -> Iterator[Callback]:
        return iter(list(self._callbacks.values()))


def check_callback(function: object, what: str) -> None:
    """TypeError unless ``function`` can be called."""
    if not callable(function):
        msg = f"{what}: a callback is a function, not {function!r}"
        raise TypeError(msg)


def check_limits(timeout: float, max_age: float | None, what: str) -> None:
    """ValueError unless ``timeout`` is a positive number of seconds and ``max_age`` one that is not negative."""
    if not (_is_number(timeout) and 0 < timeout < math.inf):
        msg = f"{what}: timeout is a positive number of seconds, not {timeout!r}"
        raise ValueError(msg)
    if max_age is not None and not (_is_number(max_age) and 0 <= max_age < math.inf):
        msg = f"{what}: max_age is a number of seconds from 0, not {max_age!r}"
        raise ValueError(msg)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
