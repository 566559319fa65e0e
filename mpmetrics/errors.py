"""Errors that mpmetrics raises, all below one base class.

Construction and configuration raise; the hot path (``inc``, ``set``, ``observe``) raises for a wrong argument only and
never for storage: when the store cannot take a value, the value stays in the process and the trouble is counted.
"""

from __future__ import annotations

__all__ = [
    "ConflictError",
    "FormatError",
    "LockTimeoutError",
    "MpmetricsError",
    "SecurityError",
    "ShutdownError",
    "StoreError",
    "StoreUnavailableError",
]


class MpmetricsError(Exception):
    """Base class of every error of this library."""


class ConflictError(MpmetricsError, ValueError):
    """A metric's name is already in use with another kind, other labels, other buckets or another mode."""


class SecurityError(MpmetricsError, ValueError):
    """A file that is to protect the endpoint cannot be used: it is missing, malformed, or does not fit another one."""


class ShutdownError(MpmetricsError):
    """The provider whose metrics were asked for was shut down: they cannot be shown, which is not to show none."""


class StoreError(MpmetricsError):
    """Something about a store, the directory that processes share."""


class StoreUnavailableError(StoreError):
    """The store cannot be created, opened or written: a wrong owner or mode, no space, a directory that is gone."""


class FormatError(StoreError):
    """A file of a store is not what it should be: foreign, cut short, damaged, or of another format version."""


class LockTimeoutError(StoreError):
    """A lock of the store was not to be had within its bounded wait; whoever holds it may be stopped."""
