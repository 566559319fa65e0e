"""What disturbs an operation: kills and exceptions at its lines or instructions, and errors of its system calls.

The code under test knows nothing of it, so it costs nothing in production. The interpreter's tracing is a failpoint
before every line, a layer around ``os`` and ``fcntl`` one at every system call, and strace one at those that reach the
kernel.
"""

from __future__ import annotations

import collections
import dis
import errno
import fcntl
import functools
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import filelock
import pytest

import mpmetrics
from mpmetrics import _cells

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType

SECONDS = float(os.environ.get("MPMETRICS_TORTURE_SECONDS", "0") or 0)
LONG = SECONDS > 0
"""Whether sweeps try every failpoint; the short form tries a sample, another one each time."""

INSTRUCTIONS = SECONDS >= 3600
"""Whether they stop before each instruction rather than each line."""

KILL = -1
"""In the place of an error: the process is killed once the call is done."""

SHORT = 0
"""In the place of an error: a write that takes only half of what it is given."""

PURE = {"format.py", "retire.py", "shapes.py"}
"""Storage files that change nothing: an exception there has the effect of one at the calling line."""

UNSHARED = PURE | {"descriptor.py", "log.py", "memory.py", "owner.py", "reader.py", "waiting.py"}
"""Storage files that change nothing that outlives the process: a kill there is one at the calling line."""

HOME = os.path.dirname(mpmetrics.__file__) + os.sep  # noqa: PTH120
STORAGE = (f"{HOME}storage{os.sep}",)
"""Files with failpoints, unless a sweep says otherwise."""

INTERRUPTED = (*STORAGE, f"{HOME}_cells{os.sep}files.py")
"""Files with interrupts; elsewhere in the cells, the steps that must be one let no signal handler in."""

WRITING = (*STORAGE, *([f"{HOME}_cells{os.sep}"] if _cells.TWIN == "pure" else []))
"""Files with kills; the C twin writes without passing a line of Python."""

EVERYWHERE = (HOME, os.path.dirname(filelock.__file__) + os.sep)  # noqa: PTH120
"""All files that a scrape runs through, the lock library included."""


@dataclass(frozen=True)
class Point:
    """A place in the code (a line or an instruction), and which pass of it this is."""

    function: str
    place: int
    time: int


class Failpoints:
    """A context in which ``act`` is called before ``point`` in this thread, and that records the points passed.

    The files in the directories ``where`` have points, where a signal handler may come in: there are places at which
    tracing would let an exception in although the interpreter does not.
    """

    def __init__(
        self,
        point: Point | None = None,
        act: Callable[[], object] | None = None,
        where: tuple[str, ...] = WRITING,
    ) -> None:
        self._point = point
        self._act = act
        self.where = where
        self._times: collections.Counter[tuple[str, int]] = collections.Counter()
        self.passed: list[Point] = []

    def __enter__(self) -> Self:
        sys.settrace(self._enter_frame)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _enter_frame(self, frame: Any, event: str, _: object) -> Any:
        if event != "call" or not frame.f_code.co_filename.startswith(self.where):
            return None
        frame.f_trace = self._step
        frame.f_trace_opcodes, frame.f_trace_lines = INSTRUCTIONS, not INSTRUCTIONS
        return self._step

    def _step(self, frame: Any, event: str, _: object) -> Any:
        if event in {"line", "opcode"}:
            if frame.f_lasti in _closed_places(frame.f_code):
                return self._step
            name = f"{'/'.join(Path(frame.f_code.co_filename).parts[-2:])}:{frame.f_code.co_qualname}"
            place = frame.f_lasti if INSTRUCTIONS else frame.f_lineno
            self._times[name, place] += 1
            point = Point(name, place, self._times[name, place])
            self.passed.append(point)
            if point == self._point and self._act is not None:
                self._act()
        return self._step


LOADS_NONE = {"LOAD_CONST", "LOAD_COMMON_CONSTANT"}
"""Instructions that can load None; the second does so from Python 3.15 on."""


@functools.cache
def _closed_places(code: CodeType) -> set[int]:
    """Offsets of instructions before which no signal handler runs.

    They are those that do nothing, which belong to no ``try``, and those by which a ``with`` statement calls
    ``__exit__``: three times None, and the call. Both come right behind others that let no handler in.
    """
    steps = list(dis.get_instructions(code))
    found = {step.offset for step in steps if step.opname == "NOP"}
    for at in range(len(steps) - 3):
        if all(step.opname in LOADS_NONE and step.argval is None for step in steps[at : at + 3]):
            calls = [each for each in steps[at + 3 : at + 6] if each.opname.startswith(("PRECALL", "CALL"))]
            if calls:
                found.update(step.offset for step in steps[max(0, at - 1) : steps.index(calls[-1]) + 1])
    return found


class Calls:
    """A context that counts this thread's system calls made by Python code; number ``at`` fails with ``error``."""

    NAMES = {  # noqa: RUF012 (a constant)
        os: (
            *("open", "close", "read", "write", "pread", "pwrite", "posix_fallocate", "fchmod", "fchown", "chmod"),
            *("mkdir", "rmdir", "rename", "link", "unlink", "listdir", "scandir", "stat", "lstat", "fstat", "access"),
        ),
        fcntl: ["flock"],
    }

    def __init__(self, at: int = -1, error: int = SHORT, _: Any = ()) -> None:
        self._at = at
        self._error = error
        self._patch = pytest.MonkeyPatch()
        self.made: list[str] = []

    def __enter__(self) -> Self:
        for module, names in self.NAMES.items():
            for name in names:
                self._patch.setattr(module, name, self._layer(name, getattr(module, name)))
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def _layer(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def layer(*arguments: Any, **named: Any) -> Any:
            self.made.append(name)
            if len(self.made) - 1 != self._at:
                return call(*arguments, **named)
            if self._error != SHORT:
                if name == "close":  # Linux closes the descriptor whatever it says
                    call(*arguments, **named)
                raise OSError(self._error, os.strerror(self._error), f"injected into {name}")
            if name in {"write", "pwrite"}:
                data = memoryview(arguments[1])
                arguments = (arguments[0], data[: max(1, len(data) // 2)], *arguments[2:])
            return call(*arguments, **named)

        return layer


class Traced:
    """The same by strace, for calls that reach the kernel, also those of the interpreter and of the compiled core.

    Number ``at`` of the calls ``made`` undisturbed fails, or is the last that the process makes.
    """

    # Not ``close``, which the kernel carries out whatever it answers, nor ``mmap``, which the allocator needs as well.
    NAMES = (
        "openat,pread64,pwrite64,fallocate,flock,fcntl,lseek,getdents64,?newfstatat,?fstat,?mkdir,mkdirat,"
        "?rename,?renameat,renameat2,?link,linkat,?unlink,unlinkat,?chmod,fchmod,fchown"
    )

    def __init__(self, at: int = -1, error: int = 0, made: tuple[str, ...] = ()) -> None:
        self._inject = []
        if at >= 0:
            when = made[: at + 1].count(made[at])
            how = "signal=KILL" if error == KILL else f"error={errno.errorcode[error]}"
            self._inject = ["-e", f"inject={made[at]}:{how}:when={when}"]
        self.made: list[str] = []

    def __enter__(self) -> Self:
        self._file = tempfile.TemporaryFile()  # without a name, so nothing stays when this process is killed
        number = self._file.fileno()
        self._strace = subprocess.Popen(
            ["strace", "-p", str(os.getpid()), "-o", f"/dev/fd/{number}", "-e", f"trace={self.NAMES}", *self._inject],
            stderr=subprocess.PIPE,
            pass_fds=[number],
            text=True,
        )
        assert self._strace.stderr is not None
        said = self._strace.stderr.readline()
        assert "attached" in said, said
        return self

    def __exit__(self, *_: object) -> None:
        self._strace.terminate()
        self._strace.communicate()
        with self._file:
            self._file.seek(0)
            said = self._file.read().decode(errors="replace")
        self.made = re.findall(r"^([a-z_0-9]+)\(", said, re.MULTILINE)
