"""Leases and mutexes hold as promised when code closes descriptors, forks, raises at any step or removes files."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import pytest

import mpmetrics
from mpmetrics._cells import Map
from mpmetrics.errors import LockTimeoutError
from mpmetrics.storage import descriptor, locks
from mpmetrics.storage.descriptor import Directory
from mpmetrics.storage.locks import Mutex, TryLock, hold_shared, is_held
from mpmetrics.storage.slab import is_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

FILES = (locks.__file__, descriptor.__file__, str(Path(filelock.__file__).parent))

KEPT: list[object] = []
"""What is locked when a process is killed."""


def is_free(path: Path) -> bool:
    """Whether the file's lock is free."""
    with descriptor.open_regular(str(path)) as number:
        return not is_held(number)


# Leases. An flock belongs to the open file, and each map of that open file keeps it.


def begin(store: str) -> str:
    """Count, which makes a slab; returns the slab's path."""
    provider = mpmetrics.Provider(store)
    KEPT.append(provider)
    mpmetrics.Counter("hits", "Hits.", provider=provider).inc()
    assert provider.epoch is not None
    return f"{provider.epoch.path}/slab-0"


class Owner:
    """A process that makes a slab, runs ``act`` and waits to be killed."""

    def __init__(self, store: str, act: Callable[[str], object]) -> None:
        said, say = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setpgid(0, 0)
                path = begin(store)
                os.dup2(say, 2000)  # a number that close_all leaves open
                act(path)
                os.write(2000, path.encode())
                signal.pause()
            finally:
                os._exit(1)
        os.close(say)
        self.path = os.read(said, 1000).decode()
        os.close(said)
        assert self.path, "it failed"

    def kill(self) -> None:
        """Kill the owner, not its children."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def end(self) -> None:
        """Kill the owner and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


@pytest.fixture
def owner(store_directory: str) -> Iterator[Callable[[Callable[[str], object]], Owner]]:
    """Starts owners; kills them and their children after the test."""
    started: list[Owner] = []

    def start(act: Callable[[str], object]) -> Owner:
        started.append(Owner(store_directory, act))
        return started[-1]

    yield start
    for each in started:
        each.end()


def close_all(_: str) -> None:
    """Close all descriptors, as daemonizing code does."""
    os.closerange(3, 1024)


def fork_a_child(_: str) -> None:
    """Fork a child that lives on."""
    if os.fork() == 0:
        signal.pause()


def start_a_program(_: str) -> None:
    """Start another program as a child."""
    subprocess.Popen(["/bin/sleep", "60"], close_fds=False)


@pytest.mark.parametrize("act", [close_all, fork_a_child, start_a_program])
def test_a_lease_is_held_for_life_and_no_longer(owner: Callable[..., Owner], act: Callable[[str], object]) -> None:
    """A lease survives closed descriptors and ends with its owner, even if a child or program lives on."""
    one = owner(act)
    assert is_alive(one.path)
    one.kill()

    assert not is_alive(one.path)


def keep_another_map(path: str) -> None:
    """Lock a file like a slab, map its open file once more so that children inherit the map, and fork a child."""
    copy = Path(path).read_bytes()
    Path(path).rename(path + "0")  # free the slab's name
    Path(path).write_bytes(copy[:4096])
    with descriptor.open_regular(path) as number:
        filelock.lock_descriptor(number, blocking=False)
        KEPT.extend((Map(number, 4096, forked=False), Map(number, 4096)))
    fork_a_child(path)


def test_a_second_map_of_the_locked_open_file_would_keep_the_lock(owner: Callable[..., Owner]) -> None:
    """The control: if a child inherits a map of the locked open file, it keeps the dead owner's lease."""
    one = owner(keep_another_map)
    assert is_alive(one.path)
    one.kill()

    assert is_alive(one.path)


def test_a_shared_lock_is_its_childrens_too(tmp_path: Path, child: Callable[..., Any]) -> None:
    """A forked child shares its parent's shared lock, so an epoch lives as long as any of its processes."""
    (tmp_path / "lease").touch()
    directory = Directory.at(str(tmp_path))
    held = [hold_shared("lease", directory)]
    with TryLock(str(tmp_path / "lease")) as is_sole:
        assert not is_sole
    one = child(lambda: KEPT.append(held[0]))
    held.clear()
    with TryLock(str(tmp_path / "lease")) as is_sole:
        assert not is_sole
    one.kill()
    with TryLock(str(tmp_path / "lease")) as is_sole:
        assert is_sole
        with pytest.raises(BlockingIOError):
            hold_shared("lease", directory)
        (tmp_path / "lease").unlink()
    with pytest.raises(FileNotFoundError):
        hold_shared("lease", directory)


# Mutexes.


def contained(action: Callable[[], object]) -> None:
    """Run ``action`` in a generator, which has a stack of its own of the exceptions that are being handled.

    Where a trace function raises while an ``except`` clause ends, CPython leaves that clause's exception on the stack;
    it would be the context of every later exception of this thread.
    """

    def run() -> Generator[None]:
        action()
        yield

    next(run())


def at_step(number: int, act: Callable[[], object], action: Callable[[], object]) -> bool:
    """Run ``action``, and ``act`` before instruction ``number`` of the locks' code; whether it has that many."""
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
        frame.f_trace = step
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return step

    sys.settrace(enter)
    try:
        contained(action)
    finally:
        sys.settrace(None)
    return left < 0


def open_files() -> int:
    """The number of open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def use(path: Path, patience: float = 0.0) -> None:
    """Take a mutex and release it."""
    with Mutex(str(path), patience):
        assert not is_free(path)


def test_only_one_holder_has_a_mutex(tmp_path: Path) -> None:
    """A second holder, of this process or another, gives up after its timeout with an error that names the file."""
    path = tmp_path / "lock"
    with Mutex(str(path), 0.0), pytest.raises(LockTimeoutError, match=str(path)), Mutex(str(path), 0.02):
        pass

    use(path)
    assert 0o600 == path.stat().st_mode & 0o777


def test_a_mutex_makes_no_directory(tmp_path: Path) -> None:
    """A mutex does not recreate a deleted directory."""
    with pytest.raises(FileNotFoundError), Mutex(str(tmp_path / "gone" / "lock"), 0.0):
        pass

    assert [] == list(tmp_path.iterdir())


def test_a_file_that_is_removed_before_its_lock_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock on an unlinked file would exclude no other process, so the mutex makes a new file."""
    path = tmp_path / "lock"
    real, removed = locks.lock_descriptor, []

    def late(number: int, *, blocking: bool) -> bool:
        if not removed:
            removed.append(path.unlink())
        return real(number, blocking=blocking)

    monkeypatch.setattr(locks, "lock_descriptor", late)
    with Mutex(str(path), 1.0):
        assert removed
        assert not is_free(path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised within a finaliser
def test_an_exception_at_any_instruction_leaves_no_lock(tmp_path: Path) -> None:
    """A signal handler that raises at any instruction leaves no lock held, and no growing number of open files."""
    path = tmp_path / "lock"

    def interrupt() -> None:
        raise KeyboardInterrupt

    use(path)
    gc.freeze()  # so that collections are fast
    step, goes_on, held = 0, True, []
    while goes_on:
        before = open_files()
        try:
            goes_on = at_step(step, interrupt, lambda: use(path))
        except KeyboardInterrupt as error:
            if not is_free(path):
                held.append(step)
            del error
        gc.collect()
        # A signal can arrive after the system has opened a descriptor and before our code has it.
        assert open_files() <= before + 1, f"step {step}"
        assert is_free(path), f"step {step}"
        use(path)
        step += 1
    gc.unfreeze()
    assert step > 100
    # While the exception, and so the interrupted call's frame, is still referenced.
    assert len(held) < 10


STRIDE = 3
"""Of the instructions at which a process is forked, the tests try every third one, others each time."""


def forked_at_steps(action: Callable[[], object], stride: int) -> Iterator[int]:
    """Have a process fork before instructions of ``action`` in turn, and die at its end; the child lives on."""
    step, goes_on = random.randrange(stride), True
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
        step += stride
    assert step > 50


def take(path: Path, taken: list[object]) -> None:
    """Take a mutex and keep it."""
    lock = Mutex(str(path), 1.0)
    taken.append(lock)
    lock.__enter__()


def check_children(action: Callable[[], object], path: Path, stride: int = STRIDE) -> None:
    """Fail unless the lock is free while such a child lives."""
    for step in forked_at_steps(action, stride):
        assert is_free(path), f"a child that was forked at step {step} has its dead parent's lock"


@pytest.mark.parametrize("action", [use, functools.partial(take, taken=[]), functools.partial(take, taken=KEPT)])
def test_a_child_has_no_lock_of_its_parent(action: Callable[[Path], object], tmp_path: Path) -> None:
    """A child forked at any instruction, by any thread, does not keep its dead parent's lock."""
    path = tmp_path / "lock"
    path.touch()
    check_children(lambda: action(path), path)


def test_the_steps_find_a_child_that_keeps_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a child that closes only known descriptors keeps one that was just being opened."""
    monkeypatch.setattr(locks.fork, "blind", lambda *_: None)
    path = tmp_path / "lock"
    path.touch()
    with pytest.raises(AssertionError, match="has its dead parent's lock"):
        check_children(lambda: take(path, KEPT), path, stride=1)


def test_a_child_that_continues_its_parents_locking_gets_an_error(tmp_path: Path) -> None:
    """A child that a signal handler forks during the call gets LockTimeoutError, not its parent's lock."""
    path = tmp_path / "lock"
    step, goes_on, told = random.randrange(STRIDE), True, 0

    def act() -> None:
        use(path, 20.0)  # such a child may hold the lock for a moment, until its error

    while goes_on:
        forked: list[int] = []
        mine = os.getpid()
        try:
            goes_on = at_step(step, lambda forked=forked: forked.append(os.fork()), act)  # type: ignore[misc]
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
        step += STRIDE
    assert told > 15
