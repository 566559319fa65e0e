"""Which store a server uses, and which one it removes: only a default store, at once if the start fails."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpmetrics.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    Serve = Callable[..., Any]

OWN = {"MPMETRICS_DIR": ""}


def config(directory: str | None = None, *, fails: str = "") -> str:
    """Return a configuration with the store ``directory``, or a default store; the step ``fails`` fails once."""
    install = f"from mpmetrics.integrations.gunicorn import install\ninstall(globals(), directory={directory!r})\n"
    return (FAIL_ONCE.format(f"mpmetrics.storage.{fails}") if fails else "") + install


FAIL_ONCE = """
import pkgutil
where, _, name = {!r}.rpartition(".")
owner = pkgutil.resolve_name(where)
real = getattr(owner, name)

def fail(*arguments, **named):
    setattr(owner, name, real)
    raise OSError(28, "No space left on device")

setattr(owner, name, fail)
"""


def reload(server: Any, config: str) -> None:
    """Let the server read this configuration, and wait for its new workers."""
    (server.home / "conf.py").write_text(config)
    old = set(server.workers())
    server.signal(signal.SIGHUP)
    server.wait_for(lambda: server.workers() and not old & set(server.workers()))
    server.wait_for(server.scrape)


def with_dead_epoch(path: Path) -> str:
    """Make a store whose server is dead."""
    Store(path).begin().close()
    return str(path)


@pytest.mark.parametrize(
    "step", ["store._secure_directory", "store.Store._begin", "store.create_shared", "memory.Memory.attach"]
)
def test_a_default_store_is_removed_at_once_if_the_start_fails(serve: Serve, step: str) -> None:
    """Whichever step fails, the store is removed; a reload makes one, which is removed when the server ends."""
    server = serve("-w", "1", config=config(fails=step), env=OWN).start()
    assert 0 == server.value("mpmetrics_store_up")
    failed = re.search(r"(/dev/shm/mpmetrics-\d+-[0-9a-f]+)\S* cannot be", server.log.read_text())
    assert failed
    assert not Path(failed[1]).exists()

    reload(server, config())
    assert 1 == server.value("mpmetrics_store_up")
    server.get("/page")
    mapped = Path(f"/proc/{server.workers()[0]}/maps").read_text()
    (store,) = {Path(path) for path in re.findall(r"/dev/shm/mpmetrics-\d+-[0-9a-f]+", mapped)}
    assert 0 == server.stop()
    assert not store.exists()


def test_a_given_store_stays_after_a_default_one_that_failed(serve: Serve) -> None:
    """A store that a reload names is not removed, although a default store had failed before."""
    server = serve("-w", "1", config=config(fails="store.Store._begin"), env=OWN).start()
    reload(server, config(str(server.home / "given")))
    assert 1 == server.value("mpmetrics_store_up")
    assert 0 == server.stop()
    assert (server.home / "given").is_dir()


def test_a_given_store_stays_before_a_default_one_that_failed(serve: Serve) -> None:
    """A given store in which the start failed is not removed, although a default store fails after a reload."""
    server = serve("-w", "1", env=OWN)
    given = with_dead_epoch(server.home / "given")
    (server.home / "conf.py").write_text(config(given, fails="store.Store._begin"))
    server.command[server.command.index("-c") + 1] = str(server.home / "conf.py")
    server.start()
    reload(server, config(fails="store._secure_directory"))
    assert 0 == server.value("mpmetrics_store_up")
    assert 0 == server.stop()
    assert Path(given).is_dir()


def test_a_given_store_stays_after_an_upgrade_from_a_default_one(serve: Serve, tmp_path: Path) -> None:
    """The new master counts in the store that its configuration names now; neither master removes the other's store."""
    pidfile = tmp_path / "pid.2"
    server = serve("-w", "1", "--pid", str(tmp_path / "pid"), config=config(), env=OWN).start()
    given = with_dead_epoch(server.home / "given")
    (server.home / "conf.py").write_text(config(given))
    server.signal(signal.SIGUSR2)
    new = int(server.wait_for(lambda: pidfile.exists() and pidfile.read_text()))
    try:
        server.wait_for(lambda: len(server.children(new)) == 2)
        assert 0 == server.stop()
        server.wait_for(lambda: server.get("/page"))
        server.wait_for(lambda: server.value('hits_total{path="/page"}'))
    finally:
        os.kill(new, signal.SIGTERM)
        server.wait_for(lambda: not Path(f"/proc/{new}").exists() or b"Z" in Path(f"/proc/{new}/stat").read_bytes())
    assert Path(given).is_dir()
