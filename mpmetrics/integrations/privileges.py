"""Acting as the workers' user where the rights of root would be dangerous."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["acting_as"]


@contextlib.contextmanager
def acting_as(uid: int, gid: int) -> Iterator[None]:
    """Within the context, if we are root, access files with the rights of this user and group.

    This changes the whole process, so use it only while no other thread runs.
    """
    if os.geteuid() != 0 or uid == 0:
        yield
        return
    group = os.getegid()
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
