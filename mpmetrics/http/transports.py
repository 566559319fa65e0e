"""What asyncio's transports leave to be done."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

__all__ = ["untie"]


def untie(transport: asyncio.Transport) -> None:
    """Let a transport that is closed go at once. It holds itself, by how it reads, until the garbage collector comes.

    That can take very long, and thousands of them between buffers that come and go make the process grow.
    """
    with suppress(AttributeError):  # other event loops have other transports
        transport._read_ready_cb = None  # type: ignore[attr-defined]  # noqa: SLF001
