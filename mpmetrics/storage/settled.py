"""What an exception out of a signal handler may leave behind, and who clears it up."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["settled"]

P = ParamSpec("P")
T = TypeVar("T")


def settled(method: Callable[P, T]) -> Callable[P, T]:
    """For a method that uses ``self.directory``: an exception that leaves it leaves no append lock taken.

    It catches what the lock itself cannot: an exception at the very start of giving it back.
    """

    @functools.wraps(method)
    def safe(*arguments: P.args, **named: P.kwargs) -> T:
        try:
            return method(*arguments, **named)
        except BaseException:
            directory = getattr(arguments[0], "directory", None)
            if directory is not None:
                directory.lock.settle()
            raise

    return safe
