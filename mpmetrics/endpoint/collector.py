"""The collector that users hold: it collects and renders."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections import defaultdict
from typing import TYPE_CHECKING

from mpmetrics.collector.collection import Collected, Collection
from mpmetrics.formats.compress import Packer
from mpmetrics.formats.negotiate import accepts_gzip, choose
from mpmetrics.formats.text import render_openmetrics, render_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mpmetrics.collector.reading import Reading
    from mpmetrics.formats.negotiate import Format

    _Coded = tuple[str, bytes]
    """A content coding, or none, and a body in it."""

    _Form = tuple[str, bool, bool]
    """What tells bodies of one collection apart: the name of a format, and whether it has UTF-8 names and is packed."""

__all__ = ["Collector"]

_WORTH_COMPRESSING = 1400
"""Bytes; a smaller body fits into one packet anyway."""


class Collector(Collection):
    """Collects the metrics of a whole server; arguments and errors as in its base class."""

    def render(self, accept: str | None = None, names: Sequence[str] = ()) -> tuple[str, bytes]:
        """Return content type and body for an ``Accept`` header; with ``names``, of these families or samples only.

        Errors as in :meth:`readings`.
        """
        headers, body = self.scrape(accept, None, names)
        return headers["Content-Type"], body

    def scrape(
        self,
        accept: str | None,
        accept_encoding: str | None,
        names: Sequence[str] = (),
        timeout: float | None = None,
    ) -> tuple[dict[str, str], bytes]:
        """Return headers and body for a scraper that sends these headers, if any, and waits ``timeout`` seconds.

        Concurrent scrapes share one collection, which began after each of them had asked, and the body that was made of
        it in each format and coding. A body of picked ``names`` is made for its scraper alone, and only one of these at
        a time, since each may be large. Errors as in :meth:`readings`.
        """
        chosen, packed = choose(accept), accepts_gzip(accept_encoding)
        if names:
            coding, body = self._pick(chosen, names, timeout, packed=packed)
        else:
            coding, body = self._share((chosen.name, chosen.utf8, packed), timeout)
        headers = {"Content-Type": chosen.content_type, "Vary": "Accept, Accept-Encoding"}
        if coding:
            headers["Content-Encoding"] = coding
        return headers, body

    def value(self, name: str, labels: Mapping[str, str] | None = None) -> float | None:
        """Return the value of one sample over all processes, None if there is none.

        ``name`` is the whole name that Prometheus sees, as ``http_requests_total``, and ``labels`` are all labels of
        the sample. Costs as much as a scrape. Errors as in :meth:`readings`.
        """
        wanted = {pair for pair in (labels or {}).items() if pair[1]}
        for reading in self.exported(self.readings()):
            if name.startswith(reading.name):
                for sample in reading.samples:
                    if reading.name + sample.suffix == name and {pair for pair in sample.labels if pair[1]} == wanted:
                        return sample.value
        return None

    def _share(self, form: _Form, timeout: float | None) -> _Coded:
        """Return a body of all metrics, which is made with a collection for all callers that wait for it."""
        self._wanted.append(form)
        try:
            collected = self.collected(timeout)
        finally:
            with contextlib.suppress(ValueError):  # in a child that was forked meanwhile
                self._wanted.remove(form)
        # The caller may have got a collection of its own, because it could not wait for the running one.
        return collected.bodies.get(form) or self._make(collected, form)

    def _collect(self) -> Collected:
        wanted = dict.fromkeys(self._wanted)
        collected = super()._collect()
        for form in wanted:
            self._make(collected, form)
        return collected

    def _make(self, collected: Collected, form: _Form) -> _Coded:
        """Return the body in this form; make it unless it exists."""
        name, utf8, packed = form
        if form not in collected.bodies:
            if packed:
                collected.bodies[form] = _pack(self._packers[name, utf8], self._make(collected, (name, utf8, False))[1])
            else:
                collected.bodies[form] = "", _render(name, self.exported(collected.readings, utf8=utf8))
        return collected.bodies[form]

    def _pick(self, chosen: Format, names: Sequence[str], timeout: float | None, *, packed: bool) -> _Coded:
        """Make a body of these names."""
        readings = self.exported(self.readings(timeout), utf8=chosen.utf8)
        # The code under the lock neither waits nor calls anything that waits.
        with self._turn:
            body = _render(chosen.name, readings, frozenset(names))
            # With a packer of its own: what others picked is another text.
            return _pack(Packer(), body) if packed else ("", body)

    @functools.cached_property
    def _wanted(self) -> list[_Form]:
        """The forms that scrapes wait for."""
        return []

    @functools.cached_property
    def _packers(self) -> defaultdict[tuple[str, bool], Packer]:
        """The packers of earlier scrapes, by format."""
        return defaultdict(Packer)

    @functools.cached_property
    def _turn(self) -> threading.RLock:
        """Held while a body of picked names is made. Re-entrant, for the signal handlers of its thread."""
        return threading.RLock()

    def after_fork_in_child(self) -> None:
        """As of the base class. A thread that made a body goes on in the parent."""
        super().after_fork_in_child()
        self._wanted = []
        self._turn = threading.RLock()


def _render(name: str, readings: list[Reading], names: frozenset[str] = frozenset()) -> bytes:
    render = render_openmetrics if name == "openmetrics" else render_text
    return render(readings, names)


def _pack(packer: Packer, body: bytes) -> _Coded:
    return ("gzip", packer.pack(body)) if len(body) >= _WORTH_COMPRESSING else ("", body)
