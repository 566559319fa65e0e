"""A mail queue in a SQLite table, shared by all processes of the server."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

STATES = ("waiting", "sent")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS mails (
    id INTEGER PRIMARY KEY,
    recipient TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting',
    queued REAL NOT NULL
)
"""


@contextlib.contextmanager
def connect() -> Iterator[sqlite3.Connection]:
    """Yield a connection and commit at the end, unless the block raises; ``MAIL_DB`` names the file."""
    connection = sqlite3.connect(os.environ.get("MAIL_DB", "mails.sqlite3"), timeout=5)
    try:
        connection.execute(_SCHEMA)
        with connection:
            yield connection
    finally:
        connection.close()


def add(recipient: str) -> None:
    """Queue a mail."""
    with connect() as connection:
        connection.execute("INSERT INTO mails (recipient, queued) VALUES (?, ?)", [recipient, time.time()])


def send() -> bool:
    """Send the oldest waiting mail; return False if none waits. This example only pretends to send it."""
    with connect() as connection:
        taken = connection.execute(
            "UPDATE mails SET state = 'sent' WHERE id = "
            "(SELECT id FROM mails WHERE state = 'waiting' ORDER BY id LIMIT 1)"
        )
        return taken.rowcount == 1


def count() -> dict[str, int]:
    """Return the number of mails by state."""
    with connect() as connection:
        found = dict(connection.execute("SELECT state, COUNT(*) FROM mails GROUP BY state"))
    return {state: found.get(state, 0) for state in STATES}


def oldest() -> float | None:
    """Return how many seconds the oldest mail has waited; None if none waits."""
    with connect() as connection:
        (queued,) = connection.execute("SELECT MIN(queued) FROM mails WHERE state = 'waiting'").fetchone()
    return None if queued is None else max(0.0, time.time() - queued)
