"""What the queue of mails looks like, asked of the database when somebody looks: once for the whole server.

Each worker registers this, too, since the application imports it, but no worker runs it: the collector does.
``conf.py`` names this module for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import mpmetrics
from examples.async_metrics import outbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpmetrics import InstrumentObserver, MeterObserver

meter = mpmetrics.get_meter("examples.async_metrics", version="1.0")

queued = meter.observable_up_down_counter("mail.queue.depth", help="Mails that wait", unit="{mail}")
sent = meter.observable_counter("mail.sent", help="Mails that were sent", unit="{mail}")


@meter.callback(queued, sent)
def count_mails(observer: MeterObserver) -> None:
    """One query for two instruments."""
    mails = outbox.count()
    observer.observe(queued, mails["waiting"])
    observer.observe(sent, mails["sent"])


def oldest_mail(_observer: InstrumentObserver) -> Iterator[float]:
    """Nothing is observed, and the series is absent, while no mail waits."""
    age = outbox.oldest()
    if age is not None:
        yield age


meter.observable_gauge(
    "mail.queue.age", help="How long the oldest mail has been waiting", unit="s", callback=oldest_mail
)
