"""Hooks of a server's configuration: adding ours to those that are there."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["chain", "is_ours"]


def chain(theirs: Callable[..., Any] | None, ours: Callable[..., Any]) -> Callable[..., Any]:
    """A hook that calls ``theirs`` and then ``ours``, with the parameters of ``ours``: gunicorn counts them."""
    if theirs is not None and is_ours(theirs):
        return theirs  # installed before: it calls theirs and ours
    if theirs is None:
        chained = functools.partial(ours)
    else:

        def chained(*arguments: Any) -> None:  # type: ignore[misc]
            theirs(*arguments)
            ours(*arguments)

    hook = functools.wraps(ours)(chained)
    hook._mpmetrics = True  # type: ignore[attr-defined]  # noqa: SLF001 (our own mark)
    return hook


def is_ours(hook: Callable[..., Any]) -> bool:
    """Whether a hook calls ours, too."""
    return bool(getattr(hook, "_mpmetrics", False))
