"""The state of the mail queue, read from the database at scrape time, once for the whole server.

The application imports this module, so each worker registers the callbacks too, but no worker runs them. The collector
does; ``conf.py`` names this module for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import mpmetrics
from examples.async_metrics import outbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpmetrics import InstrumentObserver, MeterObserver

meter = mpmetrics.get_meter("examples.async_metrics", version="1.0")

queued = meter.observable_up_down_counter("mail.queue.depth", help="Waiting mails", unit="{mail}")
sent = meter.observable_counter("mail.sent", help="Sent mails", unit="{mail}")


@meter.callback(queued, sent)
def count_mails(observer: MeterObserver) -> None:
    """Observe two instruments with one query."""
    mails = outbox.count()
    observer.observe(queued, mails["waiting"])
    observer.observe(sent, mails["sent"])


def oldest_mail(_observer: InstrumentObserver) -> Iterator[float]:
    """Observe nothing while no mail waits; the series is then absent."""
    age = outbox.oldest()
    if age is not None:
        yield age


meter.observable_gauge("mail.queue.age", help="Waiting time of the oldest mail", unit="s", callback=oldest_mail)
