"""What clients of the endpoint may cost."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may cost. Raises ValueError unless every number is above 0.

    max_connections: connections at a time, over all sockets; `HttpServer` says what happens past it.
    threads: requests that the handler works on at a time, each on its own thread; more are refused with 503. Fewer than
        `max_connections`, so that a handler that hangs leaves places for answers that need no thread.
    header_timeout: seconds for a whole request (TLS handshake, head, and the short body that is thrown away), from
        accept or, on a kept connection, from its first byte.
    idle_timeout: seconds that a kept connection may wait for its next request.
    write_timeout: seconds that a client has to read one whole response and close, in however many pieces.
    max_unsent: bytes of response bodies that clients have not read yet, over all connections; `Eviction` says what
        happens past it.
    max_head: bytes of a request head.
    chunk: bytes handed to a connection's transport at a time.
    """

    max_connections: int = 64
    threads: int = 60
    header_timeout: float = 5.0
    idle_timeout: float = 30.0
    write_timeout: float = 30.0
    max_unsent: int = 64 * 1024 * 1024
    max_head: int = 16 * 1024
    chunk: int = 64 * 1024

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"Limits.{field.name} must be above 0, not {value!r}")
