"""The errors that mpmetrics raises, with one base class.

Construction and configuration raise. The hot path (``inc``, ``set``, ``observe``) raises for a wrong argument only,
never for storage: if the store cannot take a value, the value stays in the process and a self-metric counts it.
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
    """A metric's name is already used by this process, with another kind, labels, buckets or mode."""


class SecurityError(MpmetricsError, ValueError):
    """A file that protects the endpoint cannot be used: it is missing, malformed, or does not fit another one."""


class ShutdownError(MpmetricsError):
    """The provider was shut down, so its metrics cannot be collected. An empty answer would look like no metrics."""


class StoreError(MpmetricsError):
    """Base class of the errors about a store, the directory that processes share."""


class StoreUnavailableError(StoreError):
    """The store cannot be created, opened or written: wrong owner or mode, no space, or the directory is gone."""


class FormatError(StoreError):
    """A file of a store is foreign, cut short, damaged, or of another format version."""


class LockTimeoutError(StoreError):
    """A lock of the store could not be taken in time. The process that holds it may be stopped."""
