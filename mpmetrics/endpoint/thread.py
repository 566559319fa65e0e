"""The endpoint in a thread, for programs without an event loop and without a separate endpoint process."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING

from mpmetrics.endpoint.app import MetricsApp, as_collector
from mpmetrics.http.address import Address
from mpmetrics.http.security.protection import Protection
from mpmetrics.http.security.settings import Security
from mpmetrics.http.server import HttpServer

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

    from mpmetrics.endpoint.app import Source
    from mpmetrics.http.limits import Limits
    from mpmetrics.http.messages import Handler

__all__ = ["ServerThread", "start_http_server"]


class ServerThread:
    """An `HttpServer` in a daemon thread with an event loop of its own.

    `sockets` are bound and listen. They belong to the server from now on, and `protection` is for all of them. The
    thread runs when the constructor returns, which raises what `HttpServer.add` raises. One thread at a time may call
    the methods.
    """

    def __init__(
        self,
        handler: Handler,
        sockets: Sequence[socket.socket],
        limits: Limits | None = None,
        protection: Protection | None = None,
    ) -> None:
        self._server = HttpServer(handler, limits)
        self._protection = protection
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mpmetrics-http", daemon=True)
        self._names = [sock.getsockname() for sock in sockets]
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._start(sockets), self._loop).result()
        except BaseException:
            self.close()
            raise

    async def _start(self, sockets: Sequence[socket.socket]) -> None:
        await self._server.start()
        for sock in sockets:
            await self._server.add(sock, self._protection)

    @property
    def port(self) -> int:
        """Port of the first socket, which is a TCP socket."""
        return int(self._names[0][1])

    def close(self, grace: float = 1.0) -> None:
        """Stop, with `grace` seconds for answers under way, and wait until the thread has ended. Repeatable."""
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._server.close(grace), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


def start_http_server(
    port: int,
    addr: str = "127.0.0.1",
    path: str = "/metrics",
    *,
    source: Source = None,
    security: Security | None = None,
    environ: Mapping[str, str] = os.environ,
) -> ServerThread:
    """Serve the metrics of ``source`` at ``http://addr:port/path`` from a thread of this process.

    ``source`` is a :class:`Collector` or an argument for one; by default the default provider. Port 0 means any free
    port, which the result's ``port`` names. Start it in one process only, after forking others. In gunicorn, use
    :mod:`mpmetrics.integrations.gunicorn` instead.

    ``security`` names the files of certificates and credentials that protect the endpoint; by default
    ``MPMETRICS_TLS_CERT``, ``MPMETRICS_TLS_KEY``, ``MPMETRICS_TLS_CLIENT_CA``, ``MPMETRICS_USERS_FILE`` and
    ``MPMETRICS_TOKEN_FILE`` name them.

    Raises OSError if the address cannot be had, ValueError for an invalid port or path, and
    :class:`~mpmetrics.errors.SecurityError` if a file cannot be used.
    """
    if not 0 <= port <= 65535:
        msg = f"a port is a number from 0 to 65535, not {port!r}"
        raise ValueError(msg)
    app = MetricsApp(as_collector(source), path)
    protection = Protection(security if security is not None else Security.from_environ(environ))
    return ServerThread(app, [Address(host=addr, port=port).listen()], protection=protection)
