"""Settings: the checked arguments of ``install``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpmetrics.collector.exporter_options import ExporterOptions
    from mpmetrics.drivers import Driver
    from mpmetrics.http.address import Address
    from mpmetrics.http.security.protection import Protection

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """The arguments of ``install``, checked. If ``protection`` is None, the endpoint is closed: it has no addresses."""

    addresses: list[Address]
    protection: Protection | None
    directory: str | None
    modules: list[str]
    max_age: float
    worker_timeout: float
    options: ExporterOptions
    drivers: list[Driver]

    def for_worker(self) -> Settings:
        """Return the settings without private keys and credentials, which a worker must not have."""
        return replace(self, protection=None)

    @property
    def scheme(self) -> str:
        """The scheme of the endpoint's URLs."""
        return "https" if self.protection is not None and self.protection.is_tls else "http"
