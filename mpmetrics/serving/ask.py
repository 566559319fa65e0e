"""The collector's side: asks all workers of an epoch to run their callbacks, at the same time, with one deadline."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import socket
import time
from typing import NamedTuple

from mpmetrics.errors import FormatError
from mpmetrics.serving.worker_socket import Worker, list_workers, short
from mpmetrics.storage.descriptor import open_regular
from mpmetrics.storage.locks import is_held
from mpmetrics.storage.reader import SlabReader
from mpmetrics.storage.slab import slab_name

__all__ = ["Reply", "ask"]

log = logging.getLogger("mpmetrics")

_MARGIN = 0.8
"""Share of the time that a worker's callbacks may take; the rest is for the request and the answer."""

_CHUNK = 1 << 16
_LONGEST = 1 << 24


class Reply(NamedTuple):
    """The answer of a worker: the first words of the series to show; None if it did not answer in time."""

    worker: Worker
    shown: frozenset[int] | None


def ask(path: str, seconds: float, max_age: float, mine: str = "") -> list[Reply]:
    """Ask all workers of the epoch at ``path`` to run their callbacks within ``seconds``; return a reply for each.

    The owner of the slab ``mine``, which is the caller, is not asked. The sockets of dead workers are removed. Never
    raises OSError.
    """
    try:
        return _ask(path, seconds, max_age, mine)
    except OSError as error:  # such as no descriptors; then no worker has answered
        log.warning("the collector cannot ask workers to run their callbacks: %s", error)
        return [Reply(worker, None) for worker in list_workers(path) if worker.identity != mine]


def _ask(path: str, seconds: float, max_age: float, mine: str) -> list[Reply]:
    deadline = time.monotonic() + seconds
    request = json.dumps({"seconds": seconds * _MARGIN, "max_age": max_age}).encode() + b"\n"
    replies: dict[Worker, frozenset[int] | None] = {}
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        for worker in list_workers(path):
            connection = None if worker.identity == mine else _connect(path, worker)
            if connection is None:
                continue
            stack.enter_context(connection)
            replies[worker] = None
            with contextlib.suppress(OSError):
                connection.setblocking(False)  # noqa: FBT003 (its only parameter)
                connection.send(request)
                selector.register(connection, selectors.EVENT_READ, (worker, bytearray()))
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                worker, received = key.data
                if _receive(key.fileobj, received):  # type: ignore[arg-type]  # registered above
                    selector.unregister(key.fileobj)
                    replies[worker] = _read(received)
    return [Reply(worker, shown) for worker, shown in replies.items()]


def _connect(path: str, worker: Worker) -> socket.socket | None:
    """Return a connection to a worker; an unconnected one if it accepts none; None if the worker is dead."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Non-blocking: a worker that does not accept, and whose backlog is full, is not waited for.
    connection.setblocking(False)  # noqa: FBT003 (its only parameter)
    try:
        with short(path, worker.file) as where:
            connection.connect(where)
    except ConnectionRefusedError:
        if _is_there(path, worker):
            return connection  # the worker lives, but another file is in the place of its socket
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(path, worker.file))
        connection.close()
        return None
    except FileNotFoundError:
        connection.close()
        return None
    except OSError:
        return connection
    return connection


def _is_there(path: str, worker: Worker) -> bool:
    """True if this worker lives, or if that cannot be determined."""
    file = os.path.join(path, slab_name(worker.ordinal))
    try:
        with open_regular(file) as slab:
            return is_held(slab) and SlabReader(slab, file).identity == worker.identity
    except (FileNotFoundError, FormatError):
        return False
    except OSError:
        return True


def _receive(connection: socket.socket, received: bytearray) -> bool:
    """Read what has arrived; True if the answer is complete or will never be."""
    try:
        chunk = connection.recv(_CHUNK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    received += chunk
    return not chunk or received.endswith(b"\n") or len(received) > _LONGEST


def _read(received: bytearray) -> frozenset[int] | None:
    try:
        return frozenset(map(int, json.loads(received)["shown"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):  # infinite numbers, or nested too deep
        return None
