"""Maps without descriptors, and words that a fork wipes."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path
from typing import Any

import pytest

from mpmetrics.storage import format as fmt

LIBC = ctypes.CDLL(None)


def test_a_map_may_reach_past_the_end_of_its_file(twin: Any) -> None:
    """It keeps no descriptor, sees what the file grows by, and is there as long as anything refers to its bytes."""
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
    """It is not there in a child, where letting go of it unmaps nothing that is mapped in its place."""
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
def test_maps_that_cannot_be(twin: Any, descriptor: int, size: int, error: type[Exception]) -> None:
    """Errors say so."""
    with pytest.raises(error):
        twin.Map(descriptor, size)


def test_words_that_a_fork_wipes(owner: Any, forked: Any) -> None:
    """A child finds that it has not begun, whoever forked; tokens are new in each process."""
    owner.begin(counting=True)
    process = owner.process
    assert process.token == process.begun == process.counting > 0

    assert 1 == forked(lambda: (process.begun, process.counting) == (0, 0))
    assert 1 == forked(lambda: owner.twin.new_token() > process.token)


def test_a_kernel_that_does_not_wipe(pure_twin: Any, owners: Any, monkeypatch: pytest.MonkeyPatch, forked: Any) -> None:
    """Where the advice is refused, the interpreter's hook wipes the words."""
    monkeypatch.setattr("mpmetrics._cells.maps._MADV_WIPEONFORK", 9999)
    owner = owners(pure_twin)
    owner.begin(counting=True)

    assert 1 == forked(lambda: (owner.process.begun, owner.process.counting) == (0, 0), os.fork)
    assert owner.process.begun == owner.process.token


def test_a_word_that_is_not_there(owner: Any) -> None:
    """A generation outside the map is refused."""
    with pytest.raises(ValueError, match="512"):
        owner.process.watch(owner.twin.Map(-1, fmt.PAGE), 512)
