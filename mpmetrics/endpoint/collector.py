"""The collector as users hold it: collects, and renders what it collected."""

from __future__ import annotations

import functools
import threading
from collections import defaultdict
from typing import TYPE_CHECKING

from mpmetrics.callbacks.runner import at_work_for
from mpmetrics.collector.collection import Collection
from mpmetrics.collector.shared_call import SharedCall
from mpmetrics.formats.compress import Packer
from mpmetrics.formats.negotiate import accepts_gzip, choose
from mpmetrics.formats.text import render_openmetrics, render_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mpmetrics.collector.reading import Reading
    from mpmetrics.formats.negotiate import Format

    _Coded = tuple[str, bytes]
    """A content coding, or none, and a body in it."""

__all__ = ["Collector"]

_WORTH_COMPRESSING = 1400
"""Bytes; less than this goes in one packet anyway."""


class Collector(Collection):
    """Collects the metrics of a whole server; arguments and errors as in its base class."""

    def render(self, accept: str | None = None, names: Sequence[str] = ()) -> tuple[str, bytes]:
        """Content type and body of a scrape whose ``Accept`` header is ``accept``; with ``names``, of these alone.

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
        """Headers and body for a scraper that sends these headers, which may be None, and waits ``timeout`` seconds.

        Scrapes of everything that are under way at the same time get the very same body, which was made once; it was
        collected after each of them had asked. What a scraper picked out by ``names`` is its own: such bodies are made
        one at a time, since each may be as large. Errors as in :meth:`readings`.
        """
        chosen, packed = choose(accept), accepts_gzip(accept_encoding)
        headers = {"Content-Type": chosen.content_type, "Vary": "Accept, Accept-Encoding"}
        if names:
            coding, body = self._pick(chosen, names, timeout, packed=packed)
        else:
            with self.patience(timeout):
                coding, body = self._share(chosen, packed=packed)
        if coding:
            headers["Content-Encoding"] = coding
        return headers, body

    def value(self, name: str, labels: Mapping[str, str] | None = None) -> float | None:
        """The value of one sample over all processes, None where there is none.

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

    def _share(self, chosen: Format, *, packed: bool) -> _Coded:
        """The metrics in this format, for all who ask while it is made for the first time."""
        make = functools.partial(self._make, chosen, packed=packed)
        if self.within:
            # What such a scrape may not wait for is missing; others are not to be given that.
            return make()
        return self._shares.setdefault((chosen, packed), SharedCall(make, make, at_work_for))()

    def _make(self, chosen: Format, *, packed: bool) -> _Coded:
        if not packed:
            return "", _render(chosen, self.exported(self.readings(), utf8=chosen.utf8))
        return _pack(self._packers[chosen.name], self._share(chosen, packed=False)[1])

    def _pick(self, chosen: Format, names: Sequence[str], timeout: float | None, *, packed: bool) -> _Coded:
        """These names alone."""
        readings = self.exported(self.readings(timeout), utf8=chosen.utf8)
        # Nothing in here waits, or asks for anything that does.
        with self._turn:
            body = _render(chosen, readings, frozenset(names))
            # It is compressed by itself, else each would be held against another one's.
            return _pack(Packer(), body) if packed else ("", body)

    @functools.cached_property
    def _shares(self) -> dict[tuple[Format, bool], SharedCall[_Coded]]:
        """The scrapes under way, and the last ones, by format and by whether they are compressed."""
        return {}

    @functools.cached_property
    def _packers(self) -> defaultdict[str, Packer]:
        """What compressed the scrapes before, by format."""
        return defaultdict(Packer)

    @functools.cached_property
    def _turn(self) -> threading.RLock:
        """Held by who makes a body of picked names. Re-entrant, for the signal handlers of its thread."""
        return threading.RLock()

    def after_fork_in_child(self) -> None:
        """As of the base class; who was rendering is rendering in the parent."""
        super().after_fork_in_child()
        self._shares = {}
        self._turn = threading.RLock()


def _render(chosen: Format, readings: list[Reading], names: frozenset[str] = frozenset()) -> bytes:
    render = render_openmetrics if chosen.name == "openmetrics" else render_text
    return render(readings, names)


def _pack(packer: Packer, body: bytes) -> _Coded:
    return ("gzip", packer.pack(body)) if len(body) >= _WORTH_COMPRESSING else ("", body)
