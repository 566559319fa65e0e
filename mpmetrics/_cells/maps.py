"""Maps of files without a descriptor, and pages that the kernel wipes in a forked child; the pure-Python twin."""

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
"""Pages that the kernel does not wipe, since it refuses the advice, as gVisor's does."""


def _wipe_refused() -> None:
    for page in list(_refused):
        page[:] = bytes(PAGE)


slabs_in_making: set[str] = set()
"""Names of slabs that are being made. A forked child must not keep their locks, which are its parent's."""


def _drop_inherited_locks() -> None:
    """Point this child's descriptors of these slabs to /dev/null. The interrupted code closes them if it continues."""
    names = tuple(slabs_in_making)
    slabs_in_making.clear()
    if names:
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the listing's own descriptor is closed by now
                if os.readlink(f"/proc/self/fd/{number}").removesuffix(" (deleted)").endswith(names):
                    os.dup2(nowhere, int(number), inheritable=False)
        os.close(nowhere)


os.register_at_fork(after_in_child=_wipe_refused)
os.register_at_fork(after_in_child=_drop_inherited_locks)


def new_token() -> int:
    """A number, from 1 on, that neither this process nor its parents have used."""
    return next(_tokens)


def wipe_page() -> memoryview[int]:
    """A page of u64 words that are zero in any forked child, however it was forked."""
    page = mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        page.madvise(_MADV_WIPEONFORK)
    except OSError:
        _refused.add(page)
    return memoryview(page).cast("Q")


_mark = wipe_page()


def fork_mark() -> int:
    """A number that stays the same within a process and differs in each of its children."""
    if not _mark[0]:
        _mark[0] = new_token()
    return _mark[0]


class Map(mmap.mmap):
    """Maps ``size`` bytes of the file ``fd`` while anything refers to them. The file may be shorter.

    With ``fd`` -1: private memory. Unlike ``mmap.mmap``, it keeps no descriptor. ``forked=False``: forked children do
    not inherit it. Do not write to a map made without ``write``. OSError when the file cannot be mapped.
    """

    def __new__(cls, fd: int, size: int, *, write: bool = False, forked: bool = True) -> Self:
        """Reserve the addresses, then map the file to them."""
        if size <= 0:
            msg = f"a map must have at least one byte, not {size}"
            raise ValueError(msg)
        self = super().__new__(cls, -1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        self._process = None if forked else fork_mark()
        at = ctypes.addressof(ctypes.c_char.from_buffer(self))
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
        if fd >= 0 and _libc.mmap(at, size, protection, mmap.MAP_SHARED | _MAP_FIXED, fd, 0) == _FAILED:
            _raise_errno()
        if fd >= 0:  # no read-ahead: the files are mostly holes, and a disk's file system would read them page by page
            _libc.madvise(at, size, mmap.MADV_RANDOM)
        if not forked and _libc.madvise(at, size, mmap.MADV_DONTFORK) != 0:
            _raise_errno()
        return self

    _process: int | None

    def __del__(self) -> None:
        # In a forked child, other memory may be at these addresses by now: never unmap it, so keep the object alive.
        if self._process is not None and self._process != fork_mark():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))


def _raise_errno() -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))
