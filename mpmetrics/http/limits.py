"""What clients of the endpoint may cost."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may cost. Raises ValueError unless every number is above 0.

    max_connections: connections at a time, over all sockets; see `HttpServer` for what happens beyond.
    header_timeout: seconds for a whole request (head, and the short body that is thrown away), from accept or, on a
        kept connection, from its first byte.
    idle_timeout: seconds that a kept connection may wait for its next request.
    write_timeout: seconds that a client has to read one whole response, in however many pieces.
    max_unsent: bytes of bodies that clients have not read yet, over all connections; a body that several are sent
        counts once. Beyond that, the bodies go of which nobody has read anything for the longest time, together with
        the clients they are for. One that is being read stays, and so do four bodies of any size.
    max_head: bytes of a request head.
    threads: threads that run the handler.
    apart: requests, answered or waiting, whose answers are made for them alone; more are refused with 503. They have up
        to 4 threads of their own, and leave `threads` to the others.
    chunk: bytes handed to a connection's transport at a time.
    """

    max_connections: int = 512
    header_timeout: float = 5.0
    idle_timeout: float = 30.0
    write_timeout: float = 30.0
    max_unsent: int = 128 * 1024 * 1024
    max_head: int = 16 * 1024
    threads: int = 8
    apart: int = 32
    chunk: int = 64 * 1024

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"Limits.{field.name} must be above 0, not {value!r}")
