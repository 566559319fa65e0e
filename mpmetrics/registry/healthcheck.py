"""Healthcheck: whether something works."""

from __future__ import annotations

from mpmetrics.registry.metric import RegistryMetric

__all__ = ["Healthcheck"]


class Healthcheck(RegistryMetric):
    """Whether something works, as its function says when :meth:`check` calls it with this object.

    The function calls :meth:`healthy` or :meth:`unhealthy`; one that raises makes it unhealthy. It is healthy if it is
    so in all processes that live; the error is that of this process.
    """

    role = "healthcheck"
    _storage = {"kind": "gauge", "mode": "livemin"}  # noqa: RUF012 (read only)

    def _open(self) -> None:
        super()._open()
        self.error: BaseException | str | None = None
        """What is wrong, as far as this process knows; None when nothing is."""

    def check(self) -> None:
        """Call the function. What it raises is the error."""
        if self._function is None:
            return
        try:
            self._function(self)
        except Exception as error:  # noqa: BLE001 (whatever is wrong: that is what is asked for)
            self.unhealthy(error)

    def healthy(self) -> None:
        """It works."""
        self.error = None
        self._series.set(1)

    def unhealthy(self, error: BaseException | str) -> None:
        """It does not work, because of ``error``."""
        self.error = error
        self._series.set(0)

    @property
    def is_healthy(self) -> bool | None:
        """Whether it works in all processes; None when nobody has looked yet."""
        value = self.snapshot().value
        return None if value is None else value > 0
