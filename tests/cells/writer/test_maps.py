"""Maps without descriptors, and words that the kernel wipes at a fork."""

from __future__ import annotations

import ctypes
import errno
import gc
import mmap
import os
import platform
import struct
from pathlib import Path
from typing import Any

import pytest

from mpmetrics.storage import format as fmt

LIBC = ctypes.PyDLL(None)  # keeps the GIL at a fork; else the child could wait for ever for another thread's GIL


def test_a_map_may_reach_past_the_end_of_its_file(twin: Any) -> None:
    """A map keeps no descriptor, shows what the file grows by, and lives while anything refers to its bytes."""
    descriptor = os.memfd_create("it")
    os.ftruncate(descriptor, fmt.PAGE)
    before = len(os.listdir("/proc/self/fd"))
    held = twin.Map(descriptor, 4 * fmt.PAGE, write=True)
    reader = twin.Map(descriptor, 4 * fmt.PAGE)
    assert before == len(os.listdir("/proc/self/fd"))
    os.ftruncate(descriptor, 4 * fmt.PAGE)
    os.close(descriptor)
    view = memoryview(held)[2 * fmt.PAGE :]
    view[:3] = b"abc"
    del held

    assert ("B", b"abc") == (view.format, memoryview(reader)[2 * fmt.PAGE :][:3].tobytes())
    view[3:4] = b"d"
    assert b"abcd" == memoryview(reader)[2 * fmt.PAGE :][:4].tobytes()


def _is_mapped(address: int) -> bool:
    spans = (line.split()[0].split("-") for line in Path("/proc/self/maps").read_text(encoding="ascii").splitlines())
    return any(int(low, 16) <= address < int(high, 16) for low, high in spans)


def test_a_map_that_children_do_not_have(twin: Any, forked: Any) -> None:
    """A child does not inherit a map with forked=False; deleting it there does not unmap what is in its place."""
    descriptor = os.memfd_create("it")
    os.ftruncate(descriptor, fmt.PAGE)
    held = [twin.Map(descriptor, fmt.PAGE, write=True, forked=False)]
    os.close(descriptor)
    address = ctypes.addressof(ctypes.c_char.from_buffer(held[0]))
    gc.collect()

    def act() -> int:
        if _is_mapped(address):
            return 1
        LIBC.mmap.restype = ctypes.c_void_p
        LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
        assert address == LIBC.mmap(address, fmt.PAGE, 3, 0x32, -1, 0)
        held.clear()
        gc.collect()
        return 3 if _is_mapped(address) else 2

    assert 3 == forked(act)
    assert _is_mapped(address)
    held.clear()
    assert not _is_mapped(address)


@pytest.mark.parametrize(("descriptor", "size", "error"), [(1 << 20, 4096, OSError), (-1, 0, ValueError)])
def test_invalid_maps_raise(twin: Any, descriptor: int, size: int, error: type[Exception]) -> None:
    """A bad descriptor or size raises the documented error."""
    with pytest.raises(error):
        twin.Map(descriptor, size)


def test_words_that_a_fork_wipes(owner: Any, forked: Any) -> None:
    """A child finds that it has not begun, however it was forked; its tokens are new."""
    owner.begin(counting=True)
    process = owner.process
    assert process.token == process.begun == process.counting > 0

    assert 1 == forked(lambda: (process.begun, process.counting) == (0, 0))
    assert 1 == forked(lambda: owner.twin.new_token() > process.token)


def refuse_to_wipe() -> None:
    """Make the kernel refuse MADV_WIPEONFORK in this process and its children, as gVisor's does."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))

    load, is_equal, give = 0x20, 0x15, 0x06
    steps = (
        (load, 0, 0, 0),  # the number of the system call
        (is_equal, 0, 3, MADVISE[platform.machine()]),
        (load, 0, 0, 32),  # its third argument
        (is_equal, 0, 1, 18),
        (give, 0, 0, 0x00050000 | errno.EINVAL),
        (give, 0, 0, 0x7FFF0000),  # the call is allowed
    )
    program = Program(len(steps), b"".join(struct.pack("=HBBI", *step) for step in steps))
    if LIBC.prctl(38, 1, 0, 0, 0) or LIBC.prctl(22, 2, ctypes.byref(program), 0, 0):
        os._exit(NO_FILTER)


MADVISE = {"x86_64": 28, "aarch64": 233}
NO_FILTER = 77


@pytest.mark.parametrize("fork", [os.fork, LIBC.fork], ids=["hooks", "no hooks"])
def test_a_kernel_that_does_not_wipe(fork: Any, twin: Any, owners: Any, forked: Any) -> None:
    """Without the advice, a hook of the C library wipes the words; in Python, the interpreter's hook (the control)."""

    def act() -> int:
        refuse_to_wipe()
        with pytest.raises(OSError, match="Invalid argument"):
            mmap.mmap(-1, fmt.PAGE).madvise(18)
        first, others = owners(twin), [owners(twin) for _ in range(3)]
        del others[1]  # freed pages are no longer wiped
        for owner in (first, *others):
            owner.begin(counting=True)
        cell = first.metric().make(("a",))
        cell.inc(5)

        def look() -> bool:
            is_wiped = all((each.process.begun, each.process.counting) == (0, 0) for each in (first, *others))
            cell.inc(1)
            return is_wiped and cell.values() == [1.0]

        return 2 * forked(look, fork) + (first.process.begun == first.process.token and cell.values() == [5.0])

    if platform.machine() not in MADVISE:
        pytest.skip("the number of the call is not known for this machine")
    found = forked(act, os.fork)
    if found == NO_FILTER:
        pytest.skip("no filter of system calls can be had here")
    assert (3 if twin.name == "compiled" or fork is os.fork else 1) == found


def test_a_generation_outside_the_map_is_refused(owner: Any) -> None:
    """watch() raises ValueError for a word outside the map."""
    with pytest.raises(ValueError, match="512"):
        owner.process.watch(owner.twin.Map(-1, fmt.PAGE), 512)
