"""The collector as users hold it: collects, and renders what it collected."""

from __future__ import annotations

import functools
from collections import defaultdict
from typing import TYPE_CHECKING

from mpmetrics.collector.collection import Collection
from mpmetrics.exposition.compress import Packer
from mpmetrics.exposition.negotiate import accepts_gzip, choose
from mpmetrics.exposition.text import render_openmetrics, render_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpmetrics.collector.reading import Reading
    from mpmetrics.exposition.negotiate import Format

__all__ = ["Collector"]

_WORTH_COMPRESSING = 1400
"""Bytes; less than this goes in one packet anyway."""


class Collector(Collection):
    """Collects the metrics of a whole server; arguments and errors as in its base class."""

    _rendered: tuple[list[Reading], dict[tuple[Format, bool], bytes]] = ([], {})

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

        Scrapes that share a collection share the work of rendering and compressing it, too. Errors as in
        :meth:`readings`.
        """
        chosen = choose(accept)
        headers = {"Content-Type": chosen.content_type, "Vary": "Accept, Accept-Encoding"}
        readings = self.readings(timeout)
        cache = self._cache(readings)
        key = (chosen, False)
        body = cache.get(key) if not names else None
        if body is None:
            render = render_openmetrics if chosen.name == "openmetrics" else render_text
            body = render(self.exported(readings, utf8=chosen.utf8), frozenset(names))
            if not names:
                cache[key] = body
        if accepts_gzip(accept_encoding) and len(body) >= _WORTH_COMPRESSING:
            headers["Content-Encoding"] = "gzip"
            packed = cache.get((chosen, True)) if not names else None
            if packed is None:
                # What a scraper picked out is compressed by itself, else each would be held against another one's.
                packed = (Packer() if names else self._packers[chosen.name]).pack(body)
                if not names:
                    cache[chosen, True] = packed
            body = packed
        return headers, body

    @functools.cached_property
    def _packers(self) -> defaultdict[str, Packer]:
        """What compressed the scrapes before, by format."""
        return defaultdict(Packer)

    def _cache(self, readings: list[Reading]) -> dict[tuple[Format, bool], bytes]:
        """What was rendered of these very readings; of the latest ones only, so that it stays bounded."""
        held, cache = self._rendered
        if held is not readings:
            cache = {}
            self._rendered = (readings, cache)
        return cache
