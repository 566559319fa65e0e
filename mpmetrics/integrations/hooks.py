"""Hooks of a server's configuration: adds ours to those that the configuration defines."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["chain", "is_ours"]


def chain(theirs: Callable[..., Any] | None, ours: Callable[..., Any]) -> Callable[..., Any]:
    """Return a hook that calls ``theirs``, then ``ours``. It has the parameters of ``ours``: gunicorn counts them."""
    if theirs is not None and is_ours(theirs):
        return theirs  # chained before, so it calls theirs and ours
    if theirs is None:
        chained = functools.partial(ours)
    else:

        def chained(*arguments: Any) -> None:  # type: ignore[misc]
            theirs(*arguments)
            ours(*arguments)

    hook = functools.wraps(ours)(chained)
    hook._mpmetrics = True  # type: ignore[attr-defined]  # noqa: SLF001 (the mark of is_ours)
    return hook


def is_ours(hook: Callable[..., Any]) -> bool:
    """True if a hook calls ours."""
    return bool(getattr(hook, "_mpmetrics", False))
