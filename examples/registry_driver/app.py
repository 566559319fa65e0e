"""A WSGI application with timers, meters and percentiles.

gunicorn -c examples/registry_driver/conf.py examples.registry_driver.app:app
curl http://127.0.0.1:8000/
curl http://127.0.0.1:9464/metrics
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from mpmetrics.registry import default_registry

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

took = default_registry.get_or_register_timer("request")
served = default_registry.get_or_register_meter("served")
lengths = default_registry.get_or_register_histogram("query.length")


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Take a random moment to answer, and measure it."""
    with took.time():
        time.sleep(random.expovariate(200))
    served.mark()
    lengths.update(len(environ.get("QUERY_STRING", "")))
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [b"served\n"]
