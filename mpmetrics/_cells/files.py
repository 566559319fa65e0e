"""The file operations that a request may need; the pure-Python twin.

They make a process's slab, claim its ordinal, allocate its blocks and read removals. Each opens the directory again and
checks that it is still the same: ``where`` is its path, device, inode number and owner. OSError when another directory
is in its place, and when a system call fails.
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
"""Ordinals to try one by one; beyond them, a listing of the directory tells which one is free."""


def _close(descriptor: int) -> None:
    # Linux closes the descriptor even if close() fails. No ``suppress``: a signal handler that raises during its call
    # would leave the file open.
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
    """FileNotFoundError in a child that a signal handler forked during the call: the file is the parent's."""
    if fork_mark() != mark:
        raise FileNotFoundError(errno.ENOENT, "it belongs to the parent process", name)


@contextlib.contextmanager
def _made(name: str) -> Iterator[None]:
    slabs_in_making.add(name)
    try:
        yield
    finally:
        slabs_in_making.discard(name)


def make_slab(where: Where, identity: str, mode: int, head: bytes) -> tuple[Map, Map, int]:
    """Make the slab ``idle-identity``; returns the map that holds its lease, the map of its words, and its inode.

    The file is locked and has its first blocks and its ``head`` before it gets its name, which is the commit.
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
            # Opened once more for the words: a child inherits their map, and a map of the locked open file would keep
            # the lock after the owner's death.
            with _open(dir_fd, temporary, os.O_RDWR) as unlocked:
                words = Map(unlocked, SLAB_SIZE, write=True)
            _check(mark, temporary)
            os.link(temporary, f"idle-{identity}", src_dir_fd=dir_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
            _check(mark, temporary)
            return lease, words, os.fstat(file).st_ino
        except OSError:
            _check(mark, temporary)
            raise
        finally:
            with contextlib.suppress(OSError):  # fold() may have removed it as a killed process's leftover
                os.unlink(temporary, dir_fd=dir_fd)


def claim_ordinal(where: Where, file: str, lowest: int, sets_aside: bool) -> int:  # noqa: FBT001 (positional in C)
    """Link the slab ``file`` to the name of the smallest ordinal from ``lowest`` on that no living process has.

    The link is the claim. With ``sets_aside``, a dead process's slab is renamed to free its ordinal, unless another
    process renames slabs at this moment; then the next free ordinal is claimed.
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
        with contextlib.suppress(OSError):  # a cleaner may have removed it
            os.unlink(file, dir_fd=dir_fd)
        return ordinal


def _claimed_before(dir_fd: int, file: str) -> int | None:
    """The ordinal that the slab already has, if a signal handler interrupted its claim after the commit; else None."""
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
    """Try the first ordinals one by one, those of dead processes included; None if all are taken."""
    is_locked = False
    try:
        for ordinal in range(EARLY):
            if _is_claimed(dir_fd, file, ordinal):
                return ordinal
            if ordinal == 0 and sets_aside:
                with contextlib.suppress(OSError):  # another process holds the lock
                    fcntl.flock(dir_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    is_locked = True
            if is_locked and _set_dead_aside(dir_fd, ordinal) and _is_claimed(dir_fd, file, ordinal):
                return ordinal
    finally:
        # Closing is not enough: a child that another thread has forked shares the open directory.
        fcntl.flock(dir_fd, fcntl.LOCK_UN)
    return None


def _set_dead_aside(dir_fd: int, ordinal: int) -> bool:
    """Rename the slab of a dead process, which frees its ordinal; returns whether the ordinal is free.

    The caller has locked the directory, so no other process renames slabs between the check and the rename.
    """
    name = f"slab-{ordinal}"
    try:
        with _open(dir_fd, name, os.O_RDONLY) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            os.rename(name, f"dead-{ordinal}-{os.fstat(file).st_ino}", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except FileNotFoundError:
        return True
    except OSError:  # its owner lives, or the check failed
        return False
    return True


def allocate_blocks(where: Where, file: str, number: int, offset: int, size: int) -> None:
    """Allocate blocks for ``size`` bytes at ``offset`` of ``file``, which must have the inode ``number``."""
    with _open_directory(where) as dir_fd, _open(dir_fd, file, os.O_RDWR) as descriptor:
        if os.fstat(descriptor).st_ino != number:
            raise OSError(errno.ESTALE, "another file has its name", file)
        os.posix_fallocate(descriptor, offset, size)


def read_tail(where: Where, file: str, number: int, position: int, most: int) -> tuple[int, int, bytes]:
    """The inode number of ``file``, the position where reading began, and the bytes from there.

    Reading begins at ``position`` if the file has the inode ``number``, else at 0. Bytes beyond the first ``most`` are
    not read.
    """
    with _open_directory(where) as dir_fd, _open(dir_fd, file, os.O_RDONLY) as descriptor:
        status = os.fstat(descriptor)
        position = position if status.st_ino == number else 0
        size = min(status.st_size, most)
        return status.st_ino, position, os.pread(descriptor, max(0, size - position), position)
