"""Acting as the workers' user where a privileged hand would be too strong."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["acting_as"]


@contextlib.contextmanager
def acting_as(uid: int, gid: int) -> Iterator[None]:
    """Have the kernel judge file accesses by this user and group, where we are privileged and it is someone else.

    For the whole process, so only where no other thread runs.
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
