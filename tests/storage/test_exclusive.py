"""Locks that one process has alone: who waits, and what interrupts, forks and removals leave of them."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import pytest

from mpmetrics.errors import LockTimeoutError
from mpmetrics.storage import descriptor, exclusive
from mpmetrics.storage.exclusive import Lease, mutex
from mpmetrics.storage.locks import unheld

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILES = (exclusive.__file__, descriptor.__file__, str(Path(filelock.__file__).parent))


KEPT: list[object] = []
"""What is locked when a process is killed."""


def at_step(number: int, act: Callable[[], object], action: Callable[[], object]) -> bool:
    """Run ``action``, with ``act`` before instruction ``number`` of the locks' code; whether there are so many."""
    left = number

    def step(_frame: Any, event: str, _argument: object) -> Any:
        nonlocal left
        if event == "opcode":
            left -= 1
            if left == -1:
                sys.settrace(None)
                act()
        return step

    def enter(frame: Any, _event: str, _argument: object) -> Any:
        if left < 0 or not frame.f_code.co_filename.startswith(FILES):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return step

    sys.settrace(enter)
    try:
        action()
    finally:
        sys.settrace(None)
    return left < 0


def open_files() -> int:
    """How many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


def use(path: Path) -> None:
    """Take a mutex and give it back."""
    with mutex(str(path), 0.0):
        assert not unheld(str(path))


def test_only_one_has_it(tmp_path: Path) -> None:
    """A second one, of the same process or another, waits no longer than it says, and names the file."""
    path = tmp_path / "lock"
    with mutex(str(path), 0.0), pytest.raises(LockTimeoutError, match=str(path)), mutex(str(path), 0.02):
        pass

    use(path)
    assert 0o600 == path.stat().st_mode & 0o777


def test_no_directory_is_made(tmp_path: Path) -> None:
    """A directory that was deleted does not come back."""
    with pytest.raises(FileNotFoundError), mutex(str(tmp_path / "gone" / "lock"), 0.0):
        pass
    with pytest.raises(FileNotFoundError):
        Lease(str(tmp_path / "gone" / "new-slab"))

    assert [] == list(tmp_path.iterdir())


def test_a_file_that_is_removed_before_it_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock on a file that nobody else can open excludes nobody: another file is made."""
    path = tmp_path / "lock"
    real, removed = exclusive.lock_descriptor, []

    def late(number: int, *, blocking: bool) -> bool:
        if not removed:
            removed.append(path.unlink())
        return real(number, blocking=blocking)

    monkeypatch.setattr(exclusive, "lock_descriptor", late)
    with mutex(str(path), 1.0):
        assert removed
        assert not unheld(str(path))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # interrupted in a finaliser
def test_interrupted_anywhere(tmp_path: Path) -> None:
    """An exception out of a signal handler, at whichever instruction, leaves nothing locked, nor ever more open."""
    path = tmp_path / "lock"

    def interrupt() -> None:
        raise KeyboardInterrupt

    use(path)
    step, goes_on, held = 0, True, []
    while goes_on:
        before = open_files()
        try:
            goes_on = at_step(step, interrupt, lambda: use(path))
        except KeyboardInterrupt as error:
            if not unheld(str(path)):
                held.append(step)
            del error
        gc.collect()
        # Between the system opening a descriptor and our having it there is a moment for a signal to come in.
        assert open_files() <= before + 1, f"step {step}"
        assert unheld(str(path)), f"step {step}"
        use(path)
        step += 1
    assert step > 100
    # While somebody keeps the exception, and with it what was interrupted at the very start of its end.
    assert len(held) < 10


def forked_at_each_step(action: Callable[[], object]) -> Iterator[int]:
    """Have a process fork before each instruction of ``action`` in turn, and die at its end; the child lives on."""
    step, goes_on = 0, True
    while goes_on:
        ready, ending = os.pipe(), os.pipe()
        children: list[int] = []

        def fork(ready: tuple[int, int] = ready, ending: tuple[int, int] = ending, children: Any = children) -> None:
            pid = os.fork()
            if pid == 0:
                os.close(ending[1])
                os.write(ready[1], b".")
                os.read(ending[0], 1)
                os._exit(0)
            children.append(pid)

        parent = os.fork()
        if parent == 0:
            status = 2
            try:
                status = 0 if at_step(step, fork, action) else 1
            finally:
                if children:
                    os.read(ready[0], 1)
                os.kill(os.getpid(), signal.SIGKILL) if status == 0 else os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(parent, 0)[1])
        assert status in {-signal.SIGKILL, 1}, f"step {step}"
        goes_on = status != 1
        try:
            yield step
        finally:
            for end in (*ready, *ending):
                os.close(end)
        step += 1
    assert step > 50


def take(path: Path, taken: list[object]) -> None:
    """Take a mutex for good."""
    lock = mutex(str(path), 1.0)
    taken.append(lock)
    lock.__enter__()


def check_children(action: Callable[[], object], path: Path) -> None:
    """Fail unless the lock is free while such a child lives."""
    for step in forked_at_each_step(action):
        assert unheld(str(path)), f"a child that was forked at step {step} has its dead parent's lock"


def test_a_child_has_no_lock_of_its_parent(tmp_path: Path) -> None:
    """Whenever it is forked, by whichever thread: a process that was killed has no lock any more."""
    path = tmp_path / "lock"
    check_children(lambda: take(path, []), path)
    check_children(lambda: use(path), path)
    check_children(lambda: take(path, KEPT), path)


def test_the_steps_find_a_child_that_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a child that closes only what is known to be open has what was just about to be."""
    monkeypatch.setattr(exclusive, "_blind", lambda _: None)
    with pytest.raises(AssertionError, match="has its dead parent's lock"):
        check_children(lambda: take(tmp_path / "lock", KEPT), tmp_path / "lock")


def test_a_child_that_goes_on_in_the_middle_is_told(tmp_path: Path) -> None:
    """What a signal handler forked, and goes on with its parent's work, does not believe that it has the lock."""
    path = tmp_path / "lock"
    step, goes_on, told = 0, True, 0
    while goes_on:
        forked: list[int] = []
        mine = os.getpid()
        try:
            goes_on = at_step(step, lambda forked=forked: forked.append(os.fork()), lambda: use(path))  # type: ignore[misc]
        except BaseException as error:
            if os.getpid() == mine:
                raise
            os._exit(0 if isinstance(error, LockTimeoutError | AssertionError) else 1)
        finally:
            if os.getpid() != mine:
                os._exit(2)
        if forked:
            status = os.waitstatus_to_exitcode(os.waitpid(forked[0], 0)[1])
            assert status in {0, 2}, f"step {step}"
            told += status == 0
        step += 1
    assert told > 50
