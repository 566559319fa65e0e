"""Files of a store whose owner or mode changes under running processes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
NOBODY = 65534

WHAT = (
    "store",
    "lock",
    "epoch",
    "lease",
    "shared",
    "removals",
    "removals.lock",
    "fold.lock",
    "retired",
    "slab of one that lives",
    "slab of a dead one",
)
MODES = {
    "closed": 0,
    "write-only": 0o300,
    "read-only": 0o500,
    "open to all": 0o777,
    "root's": 0o700,
    "root's, and readable": 0o755,
}


def change(path: Path, how: str) -> None:
    """Change owner or mode of a file or directory."""
    is_directory = path.is_dir()
    if how.startswith("root's"):
        os.chown(path, 0, 0)
    path.chmod(MODES[how] if is_directory else MODES[how] & 0o666)


def put_back(path: Path) -> None:
    """As it was made."""
    os.chown(path, NOBODY, NOBODY)
    path.chmod(0o700 if path.is_dir() else 0o600)


class Crew:
    """Workers and collectors of one store, and how often each metric was used, as far as it has to be there."""

    def __init__(self, store: Path, person: Callable[..., Any]) -> None:
        self.person = person
        self.worker, self.parent, self.victim, self.early, folded = (person() for _ in range(5))
        for number, each in enumerate((self.worker, self.parent, self.victim, self.early, folded)):
            assert each.work()
            each.use("all", f"own-{number}")
        self.used = 10
        self.watchers = [person(), person()]
        self.watchers[0].watch()
        self.watchers[1].watch_provider()
        folded.kill()
        for each in self.watchers:
            assert self.used == each.scrape()["hits_total"]
        self.writers = [self.worker, self.parent]
        self.others: list[Any] = []
        slabs = dict(slabs_by_pid(store))
        (self.epoch,) = store.glob("epoch-*")
        self.places = {
            "store": store,
            "epoch": self.epoch,
            "lock": store / "lock",
            "slab of one that lives": slabs[self.worker.pid],
            "slab of a dead one": slabs[self.early.pid],
        }
        self.early.kill()  # no collector looks, so it is not folded yet

    def place(self, what: str) -> Path:
        """The path of one of the things."""
        return self.places.get(what, self.epoch / what)

    def go_on(self) -> None:
        """Work and scrape while something is wrong, with a child that is forked now and a worker that is killed."""
        shown = [float(self.used) for _ in self.watchers]
        self.worker.declare("later")
        for turn in range(3):
            if turn == 1:
                self.parent.fork()  # the child counts for itself, with what it can have now
                self.victim.use("all", "before its end")
                self.victim.kill()
                self.used += 2
            for each in self.writers:
                each.use("all", f"later-{turn}")
                self.used += 2
            for number, each in enumerate(self.watchers):
                values = each.scrape()
                check(values, self.used)
                assert values["hits_total"] >= shown[number]
                shown[number] = values["hits_total"]

    def come_late(self) -> None:
        """A worker that begins while something is wrong."""
        late = self.person()
        self.others.append(late)
        is_in = late.work(default=True)
        late.use("all", "late")
        late.declare("latest")
        if is_in:
            self.used += 2
            self.writers.append(late)
        else:
            assert "stay private" in " ".join(late.said())

    def look_anew(self) -> None:
        """A collector that begins while something is wrong: it is told so, or says what is missing."""
        new = self.person()
        self.others.append(new)
        refusal = new.refusal("watch")
        if not refusal:
            check(new.scrape(), self.used)

    def end_well(self) -> None:
        """With all as it was everything is there, once; and each process has said what was wrong, once."""
        for each in self.writers:
            for _ in range(100):
                if not each.flush():
                    break
                time.sleep(0.05)
            each.use("all", "at last")
            self.used += 2
        self.watchers.append(self.person())
        self.watchers[-1].watch()
        expected = (self.used, self.used, self.used, 0, 1)
        for each in self.watchers:
            values = each.scrape()
            names = ("hits_total", "level", "took_count", "mpmetrics_unreadable_files", "mpmetrics_store_up")
            assert expected == tuple(values[name] for name in names), each.said()
        for each in (*self.writers, *self.watchers, *self.others):
            lines = each.said()
            assert len(lines) == len(set(lines)) <= 4, lines
        for each in self.writers:
            each.kill()
        assert self.used == self.watchers[0].scrape()["hits_total"]
        assert [] == list(self.epoch.glob("slab-*"))


@pytest.mark.parametrize("how", MODES)
@pytest.mark.parametrize("what", WHAT)
def test_processes_go_on_and_totals_are_exact_once_it_is_put_back(
    what: str, how: str, store_directory: str, person: Callable[..., Any]
) -> None:
    """Uses succeed, scrapes never go back and report what is missing, and no count is lost in the end."""
    crew = Crew(Path(store_directory, "store"), person)
    path = crew.place(what)
    change(path, how)
    crew.go_on()
    crew.come_late()
    crew.look_anew()
    if what == "slab of a dead one" and not path.exists():
        assert how in {"read-only", "open to all", "root's, and readable"}  # it could be folded
    else:
        put_back(path)
    crew.end_well()


def check(values: dict[str, float], used: int) -> None:
    """A scrape shows what there is, or it says that something is missing; and nothing twice."""
    hits, took = values.get("hits_total", 0), values.get("took_count", 0)
    assert hits <= used
    is_said = values["mpmetrics_unreadable_files"] or not values["mpmetrics_store_up"]
    assert hits == used == took == values.get("level", 0) or is_said or values["mpmetrics_drops_total"], values


def slabs_by_pid(store: Path) -> Iterator[tuple[int, Path]]:
    """The slabs by the process ids in their heads, which are labels only, but here they do."""
    for path in store.glob("epoch-*/slab-*"):
        with path.open("rb") as file:
            yield int.from_bytes(file.read(40)[32:], "little"), path


@pytest.mark.parametrize("how", ["closed", "write-only"])
@pytest.mark.parametrize("is_naive", [False, True], ids=["as it is", "control"])
def test_a_collector_that_sees_nothing_new_stays_right(
    how: str, store_directory: str, person: Callable[..., Any], *, is_naive: bool
) -> None:
    """A collector that cannot list the epoch shows what it has mapped. In the control, counters go back to zero."""
    store = Path(store_directory, "store")
    keeper, *workers = (person() for _ in range(5))
    for each in (keeper, *workers):
        each.work()
        each.use("all")
    owner, root = person(), person(0)
    owner.watch(is_naive=is_naive)
    root.watch()
    assert 5 == owner.scrape()["hits_total"]
    (epoch,) = store.glob("epoch-*")
    epoch.chmod(MODES[how])
    used, seen = 5, []
    for each in workers:
        keeper.use("all")
        each.use("all")
        each.kill()
        used += 2
        seen.append(owner.scrape().get("hits_total", 0) - used)
        assert used == root.scrape()["hits_total"]
    assert is_naive == any(seen), seen
    put_back(epoch)
    assert used == owner.scrape()["hits_total"] == root.scrape()["hits_total"]
    assert {(NOBODY, NOBODY)} == {(entry.stat().st_uid, entry.stat().st_gid) for entry in epoch.iterdir()}


@pytest.mark.parametrize("what", ["store", "epoch"])
def test_a_new_process_refuses_what_others_can_write_or_own(
    what: str, store_directory: str, person: Callable[..., Any]
) -> None:
    """A directory that other users can write is refused by name, and used again once its mode and owner are right."""
    store = Path(store_directory, "store")
    running = person()
    running.work()
    path = store if what == "store" else next(store.glob("epoch-*"))
    for how, words in (("open to all", f"run: chmod 0700 {path}"), ("root's, and readable", "belongs to user 0")):
        change(path, how)
        late = person()
        assert not late.work(default=True)
        (line,) = late.said()
        assert words in line
        assert str(path) in line
        assert "stay private" in line
        late.use("all")
        running.use("all")
        if what == "store":
            assert words in person().refusal("begin")
        put_back(path)
    assert person().work()
    watcher = person()
    watcher.watch()
    assert 2 == watcher.scrape()["hits_total"]
    running.kill()


@pytest.mark.parametrize("how", MODES)
@pytest.mark.parametrize("what", ["epoch", "lease", "shared"])
def test_an_old_epoch_that_cannot_be_looked_at_keeps_no_server_from_its_own(
    what: str, how: str, store_directory: str, person: Callable[..., Any]
) -> None:
    """The next server begins its epoch beside an unreadable one, and removes the old one as soon as it can."""
    store = Path(store_directory, "store")
    old = person()
    old.work()
    old.use("all")
    old.kill()
    (epoch,) = store.glob("epoch-*")
    path = epoch if what == "epoch" else epoch / what
    change(path, how)
    assert int(epoch.name[6:]) < person().begin()
    if epoch.exists():
        put_back(epoch)
        if path.exists():
            put_back(path)
    last = person().begin()
    assert [f"epoch-{last}"] == [entry.name for entry in store.glob("*epoch-*")]
