"""prometheus_client's context managers and decorators with type annotations, which prometheus_client lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client.context_managers import ExceptionCounter, InprogressTracker, Timer

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ExceptionCounter", "Exceptions", "InprogressTracker", "Timer", "exception_counter", "inprogress", "timer"]

Exceptions = type[BaseException] | tuple[type[BaseException], ...]


def exception_counter(series: Any, exception: Exceptions) -> ExceptionCounter:
    """Return a context manager that calls ``series.inc()`` for each such exception that leaves the code."""
    return ExceptionCounter(series, exception)


def inprogress(series: Any) -> InprogressTracker:
    """Return a context manager that calls ``series.inc()`` on entry and ``series.dec()`` on exit."""
    return _Inprogress(series)


def timer(series: Any, method: str) -> Timer:
    """Return a context manager that calls ``series.method(seconds)`` with the duration of the code."""
    return _Timer(series, method)


_Inprogress: Callable[..., InprogressTracker] = InprogressTracker
_Timer: Callable[..., Timer] = Timer
