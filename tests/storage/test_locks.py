"""Locks on files: leases that are held by a map, and mutexes, whatever closes, forks, interrupts or removes them."""

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
from mpmetrics.storage.locks import Mutex, Sole, hold, is_held
from mpmetrics.storage.slab import is_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

FILES = (locks.__file__, descriptor.__file__, str(Path(filelock.__file__).parent))

KEPT: list[object] = []
"""What is locked when a process is killed."""


def is_free(path: Path) -> bool:
    """Whether nobody has the file's lock."""
    with descriptor.open_regular(str(path)) as number:
        return not is_held(number)


# Leases. An flock belongs to the open file, and any map of that open file keeps it.


def begin(store: str) -> str:
    """Count, and so have a slab; its path."""
    provider = mpmetrics.Provider(store)
    KEPT.append(provider)
    mpmetrics.Counter("hits", "Hits.", provider=provider).inc()
    assert provider.epoch is not None
    return f"{provider.epoch.path}/slab-0"


class Owner:
    """A process that begins, does something, and is killed; ``lives`` while it is there."""

    def __init__(self, store: str, act: Callable[[str], object]) -> None:
        said, say = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setpgid(0, 0)
                path = begin(store)
                os.dup2(say, 2000)  # out of the way of what is closed
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
        """End the owner alone."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def end(self) -> None:
        """End its children, and it too."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


@pytest.fixture
def owner(store_directory: str) -> Iterator[Callable[[Callable[[str], object]], Owner]]:
    """Starts owners, which are ended with all their children."""
    started: list[Owner] = []

    def start(act: Callable[[str], object]) -> Owner:
        started.append(Owner(store_directory, act))
        return started[-1]

    yield start
    for each in started:
        each.end()


def close_all(_: str) -> None:
    """What daemonizing code does."""
    os.closerange(3, 1024)


def fork_a_child(_: str) -> None:
    """Have a child that lives on."""
    if os.fork() == 0:
        signal.pause()


def start_a_program(_: str) -> None:
    """Have a child that is another program."""
    subprocess.Popen(["/bin/sleep", "60"], close_fds=False)


@pytest.mark.parametrize("act", [close_all, fork_a_child, start_a_program])
def test_a_lease_is_held_for_life_and_no_longer(owner: Callable[..., Owner], act: Callable[[str], object]) -> None:
    """Held where all descriptors are closed; let go when the owner is killed, although a child or program lives on."""
    one = owner(act)
    assert is_alive(one.path)
    one.kill()

    assert not is_alive(one.path)


def keep_another_map(path: str) -> None:
    """Lock a file as a slab is, map its open file once more in a way that children inherit, and have a child."""
    copy = Path(path).read_bytes()
    Path(path).rename(path + "0")  # the slab itself is not in the way
    Path(path).write_bytes(copy[:4096])
    with descriptor.open_regular(path) as number:
        filelock.lock_descriptor(number, blocking=False)
        KEPT.extend((Map(number, 4096, forked=False), Map(number, 4096)))
    fork_a_child(path)


def test_a_second_map_of_the_locked_open_file_would_keep_the_lock(owner: Callable[..., Owner]) -> None:
    """The control: with an inherited map of the open file that is locked, a dead process's child keeps its lease."""
    one = owner(keep_another_map)
    assert is_alive(one.path)
    one.kill()

    assert is_alive(one.path)


def test_a_shared_lock_is_its_childrens_too(tmp_path: Path, child: Callable[..., Any]) -> None:
    """An epoch lives as long as any process of it: a lock that is held shared passes to a forked child."""
    (tmp_path / "lease").touch()
    folder = Directory.at(str(tmp_path))
    held = [hold("lease", folder)]
    with Sole(str(tmp_path / "lease")) as is_sole:
        assert not is_sole
    one = child(lambda: KEPT.append(held[0]))
    held.clear()
    with Sole(str(tmp_path / "lease")) as is_sole:
        assert not is_sole
    one.kill()
    with Sole(str(tmp_path / "lease")) as is_sole:
        assert is_sole
        with pytest.raises(BlockingIOError):
            hold("lease", folder)
        (tmp_path / "lease").unlink()
    with pytest.raises(FileNotFoundError):
        hold("lease", folder)


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
        contained(action)
    finally:
        sys.settrace(None)
    return left < 0


def open_files() -> int:
    """How many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


def use(path: Path, patience: float = 0.0) -> None:
    """Take a mutex and give it back."""
    with Mutex(str(path), patience):
        assert not is_free(path)


def test_only_one_has_it(tmp_path: Path) -> None:
    """A second one, of the same process or another, waits no longer than it says, and names the file."""
    path = tmp_path / "lock"
    with Mutex(str(path), 0.0), pytest.raises(LockTimeoutError, match=str(path)), Mutex(str(path), 0.02):
        pass

    use(path)
    assert 0o600 == path.stat().st_mode & 0o777


def test_no_directory_is_made(tmp_path: Path) -> None:
    """A directory that was deleted does not come back."""
    with pytest.raises(FileNotFoundError), Mutex(str(tmp_path / "gone" / "lock"), 0.0):
        pass

    assert [] == list(tmp_path.iterdir())


def test_a_file_that_is_removed_before_it_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock on a file that nobody else can open excludes nobody: another file is made."""
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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # interrupted in a finaliser
def test_interrupted_anywhere(tmp_path: Path) -> None:
    """An exception out of a signal handler, at whichever instruction, leaves nothing locked, nor ever more open."""
    path = tmp_path / "lock"

    def interrupt() -> None:
        raise KeyboardInterrupt

    use(path)
    gc.freeze()  # so that each collection takes no time
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
        # Between the system opening a descriptor and our having it there is a moment for a signal to come in.
        assert open_files() <= before + 1, f"step {step}"
        assert is_free(path), f"step {step}"
        use(path)
        step += 1
    gc.unfreeze()
    assert step > 100
    # While somebody keeps the exception, and with it what was interrupted at the very start of its end.
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
    """Take a mutex for good."""
    lock = Mutex(str(path), 1.0)
    taken.append(lock)
    lock.__enter__()


def check_children(action: Callable[[], object], path: Path, stride: int = STRIDE) -> None:
    """Fail unless the lock is free while such a child lives."""
    for step in forked_at_steps(action, stride):
        assert is_free(path), f"a child that was forked at step {step} has its dead parent's lock"


@pytest.mark.parametrize("action", [use, functools.partial(take, taken=[]), functools.partial(take, taken=KEPT)])
def test_a_child_has_no_lock_of_its_parent(action: Callable[[Path], object], tmp_path: Path) -> None:
    """Whenever it is forked, by whichever thread: a process that was killed has no lock any more."""
    path = tmp_path / "lock"
    path.touch()
    check_children(lambda: action(path), path)


def test_the_steps_find_a_child_that_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a child that closes only what is known to be open has what was just about to be."""
    monkeypatch.setattr(locks.fork, "blind", lambda *_: None)
    path = tmp_path / "lock"
    path.touch()
    with pytest.raises(AssertionError, match="has its dead parent's lock"):
        check_children(lambda: take(path, KEPT), path, stride=1)


def test_a_child_that_goes_on_in_the_middle_is_told(tmp_path: Path) -> None:
    """What a signal handler forked, and goes on with its parent's work, does not believe that it has the lock."""
    path = tmp_path / "lock"
    step, goes_on, told = random.randrange(STRIDE), True, 0

    def act() -> None:
        use(path, 20.0)  # such a child may have it for a moment, before it is told

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
