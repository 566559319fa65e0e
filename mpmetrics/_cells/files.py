"""What a request may have to do with files; the pure-Python twin.

A process's slab is made, claims an ordinal, grows, and removals are read. Each function opens the directory anew, and
takes no other one for it: ``where`` is its path, device, number and owner. OSError when there is another one in its
place, and for all that the system refuses.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING

from mpmetrics._cells.maps import Map, fork_mark, slabs_in_making
from mpmetrics._cells.offsets import AREA_0, PAGE, SLAB_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Where", "allocate_blocks", "claim_ordinal", "make_slab", "read_tail"]

Where = tuple[str, int, int, int]

EARLY = 64
"""Ordinals that are tried one by one before a listing tells which one is free."""


def _close(descriptor: int) -> None:
    # Linux closes it whatever it says. No ``suppress``: a signal handler that interrupts its call would leave it open.
    try:  # noqa: SIM105
        os.close(descriptor)
    except OSError:
        pass


@contextlib.contextmanager
def _open_directory(where: Where) -> Iterator[int]:
    path, device, number, owner = where
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino, status.st_uid) != (device, number, owner):
            raise OSError(errno.ESTALE, "another directory is in its place", path)
        yield descriptor
    finally:
        _close(descriptor)


@contextlib.contextmanager
def _open(dir_fd: int, name: str, flags: int) -> Iterator[int]:
    descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600, dir_fd=dir_fd)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", name)
        yield descriptor
    finally:
        _close(descriptor)


def _check(mark: int, name: str) -> None:
    """FileNotFoundError in a child that a signal handler forked amid this, and goes on with what is its parent's."""
    if fork_mark() != mark:
        raise FileNotFoundError(errno.ENOENT, "it is the parent's", name)


@contextlib.contextmanager
def _made(name: str) -> Iterator[None]:
    slabs_in_making.add(name)
    try:
        yield
    finally:
        slabs_in_making.discard(name)


def make_slab(where: Where, identity: str, mode: int, head: bytes) -> tuple[Map, Map, int]:
    """Make the slab ``idle-identity``; returns the map that holds its lease, the map of its words, and its number.

    It is locked, has its first blocks and its ``head`` before it has its name, which is the commit.
    """
    temporary, mark = f"new-slab-{identity}", fork_mark()
    with (
        _made(temporary),
        _open_directory(where) as dir_fd,
        _open(dir_fd, temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL) as file,
    ):
        try:
            os.fchmod(file, mode)
            lease = Map(file, PAGE, forked=False)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(file, 0, 2 * PAGE)
            os.posix_fallocate(file, AREA_0, PAGE)
            if os.pwrite(file, head, 0) != len(head):
                raise OSError(errno.ENOSPC, "no room for its head", temporary)
            # Any other map of the locked open file would hold the lock on in a forked child: so it is opened once more.
            with _open(dir_fd, temporary, os.O_RDWR) as again:
                words = Map(again, SLAB_SIZE, write=True)
            _check(mark, temporary)
            os.link(temporary, f"idle-{identity}", src_dir_fd=dir_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
            _check(mark, temporary)
            return lease, words, os.fstat(file).st_ino
        except OSError:
            _check(mark, temporary)
            raise
        finally:
            with contextlib.suppress(OSError):  # fold() took it for what a killed process left
                os.unlink(temporary, dir_fd=dir_fd)


def claim_ordinal(where: Where, file: str, lowest: int, sets_aside: bool) -> int:  # noqa: FBT001 (positional in C)
    """Link the slab ``file`` to the name of the smallest ordinal from ``lowest`` on that no living process has.

    Linking is the claim. With ``sets_aside``, the name of a dead process's slab is taken away for it, where no other
    process does such a thing at this moment; else the next ordinal will do.
    """
    with _open_directory(where) as dir_fd:
        ordinal = _claimed_before(dir_fd, file)
        if ordinal is None and not lowest:
            ordinal = _claim_early(dir_fd, file, sets_aside=sets_aside)
        if ordinal is None:
            names = (name[5:] for name in os.listdir(dir_fd) if name.startswith("slab-"))
            taken = {int(number) for number in names if number.isdecimal()}
            ordinal = lowest
            while ordinal in taken or not _is_claimed(dir_fd, file, ordinal):
                ordinal += 1
        with contextlib.suppress(OSError):  # a cleaner was quicker
            os.unlink(file, dir_fd=dir_fd)
        return ordinal


def _claimed_before(dir_fd: int, file: str) -> int | None:
    """The ordinal that the slab has already, as a signal handler interrupted its claim behind the commit."""
    with contextlib.suppress(FileNotFoundError):
        if os.stat(file, dir_fd=dir_fd).st_nlink == 1:
            return None
    for name in os.listdir(dir_fd):
        if name.startswith("slab-"):
            with contextlib.suppress(OSError), _open(dir_fd, name, os.O_RDONLY) as slab:
                if os.pread(slab, 16, 16).hex() == file.removeprefix("idle-"):
                    return int(name.removeprefix("slab-"))
    return None


def _is_claimed(dir_fd: int, file: str, ordinal: int) -> bool:
    try:
        os.link(file, f"slab-{ordinal}", src_dir_fd=dir_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
    except FileExistsError:
        return False
    return True


def _claim_early(dir_fd: int, file: str, *, sets_aside: bool) -> int | None:
    """Claim one of the first ordinals, one after the other; a dead process's is free for this."""
    is_locked = False
    try:
        for ordinal in range(EARLY):
            if _is_claimed(dir_fd, file, ordinal):
                return ordinal
            if ordinal == 0 and sets_aside:
                with contextlib.suppress(OSError):  # it is another process's turn
                    fcntl.flock(dir_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    is_locked = True
            if is_locked and _set_dead_aside(dir_fd, ordinal) and _is_claimed(dir_fd, file, ordinal):
                return ordinal
    finally:
        # Not by closing alone: a child that another thread has forked has the same open directory.
        fcntl.flock(dir_fd, fcntl.LOCK_UN)
    return None


def _set_dead_aside(dir_fd: int, ordinal: int) -> bool:
    """Give the slab of a dead process a name that claims nothing; whether its own is free then.

    While the directory is locked nobody else takes a slab's name away, so what is looked at is what is renamed.
    """
    name = f"slab-{ordinal}"
    try:
        with _open(dir_fd, name, os.O_RDONLY) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            os.rename(name, f"dead-{ordinal}-{os.fstat(file).st_ino}", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except FileNotFoundError:
        return True
    except OSError:  # its owner lives, or it cannot be told
        return False
    return True


def allocate_blocks(where: Where, file: str, number: int, offset: int, size: int) -> None:
    """Have blocks for ``size`` bytes at ``offset`` of ``file``, which has to be the one of this number."""
    with _open_directory(where) as dir_fd, _open(dir_fd, file, os.O_RDWR) as descriptor:
        if os.fstat(descriptor).st_ino != number:
            raise OSError(errno.ESTALE, "another file has its name", file)
        os.posix_fallocate(descriptor, offset, size)


def read_tail(where: Where, file: str, number: int, position: int, most: int) -> tuple[int, int, bytes]:
    """Number of ``file``, where it was read from, and what it holds from there on, up to ``most`` bytes of it in all.

    It is read from ``position`` on if it is the one of this ``number``, else from its beginning.
    """
    with _open_directory(where) as dir_fd, _open(dir_fd, file, os.O_RDONLY) as descriptor:
        status = os.fstat(descriptor)
        position = position if status.st_ino == number else 0
        size = min(status.st_size, most)
        return status.st_ino, position, os.pread(descriptor, max(0, size - position), position)
