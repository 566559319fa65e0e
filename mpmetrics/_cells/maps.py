"""Maps of files, which keep no descriptor, and pages that a forked child finds wiped; the pure-Python twin."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import mmap
import os
import weakref
from typing import Self

from mpmetrics._cells.offsets import PAGE

__all__ = ["Map", "fork_mark", "new_token", "slabs_in_making", "wipe_page"]

_MADV_WIPEONFORK = 18
_MAP_NORESERVE = 0x4000
_MAP_FIXED = 0x10

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_FAILED = ctypes.c_void_p(-1).value

_tokens = itertools.count(1)
_refused: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
"""Pages that the kernel does not wipe: gVisor's refuses the advice."""


def _wipe_refused() -> None:
    for page in list(_refused):
        page[:] = bytes(PAGE)


slabs_in_making: set[str] = set()
"""Names of slabs that are being made. A forked child is not to hold their locks, which are its parent's."""


def _drop_inherited_locks() -> None:
    """Have descriptors of these slabs lead nowhere. Code that goes on in this child closes them."""
    names = tuple(slabs_in_making)
    slabs_in_making.clear()
    if names:
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # that of the listing is closed by now
                if os.readlink(f"/proc/self/fd/{number}").removesuffix(" (deleted)").endswith(names):
                    os.dup2(nowhere, int(number), inheritable=False)
        os.close(nowhere)


os.register_at_fork(after_in_child=_wipe_refused)
os.register_at_fork(after_in_child=_drop_inherited_locks)


def new_token() -> int:
    """A number from 1 on that this process and its parents have not had yet."""
    return next(_tokens)


def wipe_page() -> memoryview[int]:
    """Words of format ``Q`` that are zero in any forked child, whoever forked."""
    page = mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        page.madvise(_MADV_WIPEONFORK)
    except OSError:
        _refused.add(page)
    return memoryview(page).cast("Q")


_mark = wipe_page()


def fork_mark() -> int:
    """The same number within a process, another one in each of its children."""
    if not _mark[0]:
        _mark[0] = new_token()
    return _mark[0]


class Map(mmap.mmap):
    """``size`` bytes of the file ``fd``, which may have fewer, mapped for as long as anything refers to them.

    Of -1, memory of this process. It keeps no descriptor, which Python's own map does; ``forked=False``: a forked child
    does not have it. Without ``write`` it must not be written to. OSError when it cannot be mapped.
    """

    def __new__(cls, fd: int, size: int, *, write: bool = False, forked: bool = True) -> Self:
        """Reserve the addresses, then map the file there."""
        if size <= 0:
            msg = f"a map has at least one byte, not {size}"
            raise ValueError(msg)
        self = super().__new__(cls, -1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        self._process = None if forked else fork_mark()
        at = ctypes.addressof(ctypes.c_char.from_buffer(self))
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
        if fd >= 0 and _libc.mmap(at, size, protection, mmap.MAP_SHARED | _MAP_FIXED, fd, 0) == _FAILED:
            _raise_errno()
        if fd >= 0:  # files here are mostly holes: a disk's file system would read ahead into them, page by page
            _libc.madvise(at, size, mmap.MADV_RANDOM)
        if not forked and _libc.madvise(at, size, mmap.MADV_DONTFORK) != 0:
            _raise_errno()
        return self

    _process: int | None

    def __del__(self) -> None:
        # In a forked child something else may be mapped there by now: it is never taken apart.
        if self._process is not None and self._process != fork_mark():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))


def _raise_errno() -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))
