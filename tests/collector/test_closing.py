"""A collector that another thread closes at any moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics.storage.store import Store

if TYPE_CHECKING:
    from pathlib import Path


class Closed(mpmetrics.Collector):
    """A collector that is closed each time after its reader has been looked up, as another thread could."""

    @property
    def _reader(self) -> Any:
        reader, self.__dict__["reader"] = self.__dict__.get("reader"), None
        return reader

    @_reader.setter
    def _reader(self, reader: Any) -> None:
        self.__dict__["reader"] = reader


def hits(collector: mpmetrics.Collector) -> list[float]:
    """Return the values of the counter."""
    return [sample.value for reading in collector.readings() for sample in reading.samples if reading.name == "hits"]


@pytest.mark.parametrize("is_listed", [True, False], ids=["", "store that cannot be listed"])
def test_a_collector_that_is_closed_during_a_scrape_shows_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_listed: bool
) -> None:
    """The scrape uses the old reader to its end, also if the store's directory cannot be listed."""
    provider = mpmetrics.Provider(tmp_path / "store")
    mpmetrics.Counter("hits", "Hits.", provider=provider).inc()
    collector = Closed(tmp_path / "store")
    expected = hits(collector)
    assert 1.0 in expected
    reader = collector._reader
    with monkeypatch.context() as patch:
        if not is_listed:

            def refuse(_store: Store) -> None:
                raise PermissionError(13, "Permission denied")

            patch.setattr(Store, "current", refuse)
            collector._reader = reader
        assert expected == hits(collector)
    collector.close()
    provider.shutdown()
