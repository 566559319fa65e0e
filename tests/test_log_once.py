"""Log messages that appear once for each cause, and those that wait for a lock."""

from __future__ import annotations

import logging
import os

import pytest

from mpmetrics.log_once import LogOnce, LogOnceUnlocked


@pytest.fixture(autouse=True)
def _every_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="mpmetrics")


def test_a_cause_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Later messages of a cause are dropped, whatever they say; another cause is logged."""
    once = LogOnce()
    once.warn("disk", "no room for %d bytes", 10)
    once.warn("disk", "no room for %d bytes", 20)
    once.error(("disk", 2), "no room on another disk")

    assert [("WARNING", "no room for 10 bytes"), ("ERROR", "no room on another disk")] == [
        (record.levelname, record.getMessage()) for record in caplog.records
    ]


def test_an_error_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """The record carries the exception that it is given."""
    error = OSError("gone")
    LogOnce().error("cause", "it failed", error=error)

    [record] = caplog.records
    assert record.exc_info is not None
    assert error is record.exc_info[1]


def test_an_exception_among_the_arguments_is_logged_as_its_text(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that keeps the record does not keep the frames of the exception, and what is open in them."""
    LogOnce().warn("cause", "no store: %s", OSError("no room"))

    (record,) = caplog.records
    assert ("no store: no room", ("no room",)) == (record.getMessage(), record.args)


def test_a_forgotten_cause_is_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    """``forget`` forgets one cause, ``clear`` all of them, and says whether there was any."""
    once = LogOnce()
    once.warn("a", "a")
    once.warn("b", "b")
    once.forget("a")
    once.forget("never logged")
    once.warn("a", "a again")
    once.warn("b", "b again")

    assert ["a", "b", "a again"] == caplog.messages
    assert once.clear()
    assert not once.clear()
    once.warn("b", "b again")
    assert "b again" == caplog.messages[-1]


def test_a_cause_is_logged_again_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    """With ``again_after``, a cause is silent for that many seconds from its last message on."""
    now = [0.0]
    once = LogOnce(again_after=60.0, clock=lambda: now[0])
    for now[0] in (0.0, 59.0, 60.0, 100.0, 120.0):
        once.warn("cause", "%g", now[0])

    assert ["0", "60", "120"] == caplog.messages


def test_messages_wait_for_the_lock(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is logged while this thread holds the lock, however often it has taken it."""
    once = LogOnceUnlocked()
    with once, once.lock:
        once.warn("outer", "outer")
        with once, once.lock:
            once.warn("inner", "inner")
        assert [] == caplog.messages

    assert ["outer", "inner"] == caplog.messages


def test_messages_are_logged_although_an_exception_ends_the_block(caplog: pytest.LogCaptureFixture) -> None:
    """What came up before the exception is in the log, and the lock is free."""
    once = LogOnceUnlocked()

    def fail() -> None:
        with once, once.lock:
            once.warn("cause", "before it")
            raise KeyError

    with pytest.raises(KeyError):
        fail()

    assert ["before it"] == caplog.messages
    assert not once.lock._is_owned()  # type: ignore[attr-defined]


def test_a_forked_child_has_its_own_lock() -> None:
    """A child that is forked while the lock is held takes a lock of its own, without waiting."""
    once = LogOnceUnlocked()
    with once, once.lock:
        pid = os.fork()
        if pid == 0:
            os._exit(0 if not once.lock._is_owned() and once.lock.acquire(blocking=False) else 1)  # type: ignore[attr-defined]
        _, status = os.waitpid(pid, 0)

    assert 0 == status
