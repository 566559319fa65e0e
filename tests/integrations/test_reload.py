"""A reload that changes the shape of a metric: the server runs on, and both shapes count."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Serve = Callable[..., Any]

APPLICATION = """
from mpmetrics import Counter, Gauge, Histogram

HITS = Counter("hits", "Requests served.", {labels!r})
TOOK = Histogram("took_seconds", "Time a request took.", buckets={buckets!r})
LEVEL = {level}

def app(environ, start_response):
    HITS.labels(*{values!r}).inc()
    TOOK.observe(0.5)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]
"""
OLD: dict[str, Any] = {"labels": ["path"], "values": ["/"], "buckets": (1,), "level": 'Gauge("level", "x")'}


def _write(server: Any, **changes: Any) -> None:
    (server.home / "shopapp.py").write_text(APPLICATION.format(**{**OLD, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": ["path", "method"], "values": ["/", "GET"]},
        {"buckets": (1, 2)},
        {"level": 'Gauge("level", "x", multiprocess_mode="max")'},
        {"level": 'Counter("level", "x")'},
    ],
    ids=["label", "bucket", "mode", "type"],
)
def test_a_changed_metric_on_reload(serve: Serve, changes: dict[str, Any]) -> None:
    """After SIGHUP the workers with the new code start, and the requests of both shapes are counted."""
    server = serve("-w", "2", env={"PYTHONDONTWRITEBYTECODE": "1"})
    _write(server)
    server.start()
    before = 1 + sum(bool(server.get("/")) for _ in range(8))
    old = set(server.workers())
    _write(server, **changes)
    server.signal(signal.SIGHUP)
    server.wait_for(lambda: len(server.workers()) == 2 and not old & set(server.workers()), what="new workers")
    after = sum(bool(server.get("/")) for _ in range(5))

    text = server.scrape()
    hits = [float(line.split()[-1]) for line in text.splitlines() if line.startswith("hits_total{")]
    assert before + after == sum(hits)
    took = server.value("took_seconds_count", text)
    assert took == (after if "buckets" in changes else before + after)
    is_hidden = "buckets" in changes or "level" in changes
    assert server.value("mpmetrics_hidden_shapes", text) == is_hidden
    assert "Traceback" not in server.log.read_text()
    assert ("is not shown" in server.log.read_text()) == is_hidden
    assert server.stop() == 0
