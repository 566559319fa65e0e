"""What a configuration that was read says about the endpoint."""

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
    """The arguments of ``install``, checked. Without protection there are no addresses: the endpoint is closed."""

    addresses: list[Address]
    protection: Protection | None
    directory: str | None
    modules: list[str]
    max_age: float
    worker_timeout: float
    options: ExporterOptions
    drivers: list[Driver]

    def for_worker(self) -> Settings:
        """The same without private keys and credentials, which a worker has no business with."""
        return replace(self, protection=None)

    @property
    def scheme(self) -> str:
        """How the endpoint is spoken to."""
        return "https" if self.protection is not None and self.protection.is_tls else "http"
