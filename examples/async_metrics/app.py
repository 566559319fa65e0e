"""Takes mails and sends them: a WSGI application whose metrics are in ``metrics.py``.

    gunicorn -c examples/async_metrics/conf.py -w 4 examples.async_metrics.app:app

``POST /mails`` with a recipient as its body queues a mail; ``POST /send`` sends the oldest one.
"""

from __future__ import annotations

import resource
from http import HTTPStatus
from typing import TYPE_CHECKING

from examples.async_metrics import metrics, outbox
from mpmetrics import Gauge

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

MAX_RECIPIENT = 200

mails = metrics.meter.counter("mail.requests", help="Requests by response status", unit="{request}")

# Only the worker itself knows this. Each worker computes it at scrape time, and not for every request.
memory = Gauge("mail_worker_peak_memory_bytes", "Largest resident size that each worker has had")
memory.set_function(lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Queue a mail, send one, or explain how to do so."""
    status, text = answer(environ)
    mails.inc({"status": status.value})
    start_response(f"{status.value} {status.phrase}", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{text}\n".encode()]


def answer(environ: WSGIEnvironment) -> tuple[HTTPStatus, str]:
    """Status and text of the response."""
    match environ["REQUEST_METHOD"], environ["PATH_INFO"]:
        case "POST", "/mails":
            size = int(environ.get("CONTENT_LENGTH") or 0)
            recipient = environ["wsgi.input"].read(min(size, MAX_RECIPIENT + 1)).decode("utf-8", "replace").strip()
            if not recipient or len(recipient) > MAX_RECIPIENT:
                return HTTPStatus.BAD_REQUEST, f"the body is the recipient, of at most {MAX_RECIPIENT} characters"
            outbox.add(recipient)
            return HTTPStatus.ACCEPTED, "queued"
        case "POST", "/send":
            return HTTPStatus.OK, "sent" if outbox.send() else "no mail waits"
        case _, "/":
            return HTTPStatus.OK, "POST a recipient to /mails to queue a mail; POST to /send to send the oldest one"
        case _:
            return HTTPStatus.NOT_FOUND, "not found"
