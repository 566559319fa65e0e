"""Healthcheck: tells whether something works."""

from __future__ import annotations

from mpmetrics.registry.metric import RegistryMetric

__all__ = ["Healthcheck"]


class Healthcheck(RegistryMetric):
    """Tells whether something works: :meth:`check` calls its function with this object.

    The function calls :meth:`healthy` or :meth:`unhealthy`; if it raises, the check is unhealthy. The check is healthy
    over all processes if it is healthy in each living process that has checked. The error is that of this process.
    """

    role = "healthcheck"
    _storage = {"kind": "gauge", "mode": "livemin"}  # noqa: RUF012 (read only)

    def _open(self) -> None:
        super()._open()
        self.error: BaseException | str | None = None
        """The error of this process's last check; None if it was healthy."""

    def check(self) -> None:
        """Call the function. An exception that it raises becomes the error."""
        if self._function is None:
            return
        try:
            self._function(self)
        except Exception as error:  # noqa: BLE001 (any exception is a result of the check)
            self.unhealthy(error)

    def healthy(self) -> None:
        """Set this process's state to healthy."""
        self.error = None
        self._series.set(1)

    def unhealthy(self, error: BaseException | str) -> None:
        """Set this process's state to unhealthy, because of ``error``."""
        self.error = error
        self._series.set(0)

    @property
    def is_healthy(self) -> bool | None:
        """True if it is healthy in all living processes; None if no process has checked yet."""
        value = self.snapshot().value
        return None if value is None else value > 0
