"""Exact metrics of prefork servers: every process counts into memory-mapped files, one collector merges them."""

from mpmetrics.errors import ConflictError, FormatError, LockTimeoutError, MpmetricsError, StoreError, StoreUnavailableError
from mpmetrics.instruments import Counter, Enum, Gauge, Histogram, Info, Summary, UpDownCounter
from mpmetrics.provider import Provider, get_provider, set_provider

__all__ = [
    "ConflictError",
    "Counter",
    "Enum",
    "FormatError",
    "Gauge",
    "Histogram",
    "Info",
    "LockTimeoutError",
    "MpmetricsError",
    "Provider",
    "StoreError",
    "StoreUnavailableError",
    "Summary",
    "UpDownCounter",
    "get_provider",
    "set_provider",
]
