"""What the documentation takes from the code is what the code says, and what it names exists."""

from __future__ import annotations

import ast
import re
import runpy
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
ARCHITECTURE = ROOT / "docs" / "design" / "architecture.md"

PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
BASES = ("", "mpmetrics/", "tests/torture/")
"""Folders that a path on a page may be relative to, besides that of the page."""

PATH = re.compile(
    r"(?P<path>\w[\w./*-]*\.(?:py|pyi|c|h|md|rst|toml)|\w[\w./*-]*/\*?)"
    r"(?:::(?P<name>[\w.*]+))?\Z"
)
"""A piece of code on a page that is a path of the source tree, with or without something that is defined there."""

MADE_UP = {"gunicorn.conf.py", "app.py", "dist/"}
"""Files of a reader's own that pages mention, and what a build makes."""

each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def test_storage_format_page_is_the_codes() -> None:
    """``docs/storage-format.rst`` is what ``make docs`` writes."""
    page = runpy.run_path(str(ROOT / "docs" / "storage_format.py"))["page"]
    assert page() == (ROOT / "docs" / "storage-format.rst").read_text(encoding="utf-8")


@each_page
def test_links_between_pages_lead_somewhere(path: Path) -> None:
    """A relative link on a page names a file that is there."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8"))
    assert [] == [link for link in links if not (path.parent / link).exists()]


@cache
def tree() -> tuple[str, ...]:
    """The files of the source tree that pages may name, by their paths."""
    tops = ("mpmetrics", "gunicorn_conf", "tests", "docs", "examples", "benchmarks", ".github")
    found = [path for top in tops for path in (ROOT / top).rglob("*") if path.is_file()]
    found += [path for path in ROOT.iterdir() if path.is_file()]
    return tuple(path.relative_to(ROOT).as_posix() for path in found)


def files_of(named: str, page: str) -> list[str]:
    """The files that a path on a page stands for; of a folder, those in it.

    A name without a folder may be that of a file anywhere: it stands beside the path of another one.
    """
    pattern = f"{named}*" if named.endswith("/") else named
    wanted = {f"{base}{pattern}" for base in (*BASES, page.rpartition("/")[0] + "/")}
    if "/" not in named:
        wanted.add(f"*/{named}")
    return [path for path in tree() if any(fnmatchcase(path, each) for each in wanted)]


def defined(path: str) -> set[str]:
    """The names that a file defines; those of methods and attributes in Python as ``Class.name``, and the bare ones."""
    source = (ROOT / path).read_text(encoding="utf-8")
    if not path.endswith(".py"):
        return set(re.findall(r"^\w[\w *]*?\b(\w+)\(", source, flags=re.MULTILINE))

    def names(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield prefix + node.name
                if isinstance(node, ast.ClassDef):
                    yield from names(node.body, f"{node.name}.")

    return set(names(ast.parse(source).body, ""))


def wrong_names(text: str, page: str) -> Iterator[str]:
    """Yield the paths on a page that are not in the tree, and the definitions that are not in their file."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r"`([^`\n]+)`", prose):
        match = PATH.match(code)
        if match is None or code in MADE_UP:
            continue
        files = files_of(match["path"], page)
        wanted = match["name"] or "*"
        if not files or (match["name"] and not any(fnmatchcase(name, wanted) for at in files for name in defined(at))):
            yield code


@each_page
def test_paths_on_a_page_exist(path: Path) -> None:
    """A file that a page names exists, and so does the function, class or test that it names in it."""
    page = path.relative_to(ROOT).as_posix()
    assert [] == list(wrong_names(path.read_text(encoding="utf-8"), page))


@pytest.mark.parametrize(
    "wrong",
    [
        "storage/no_such_file.py",
        "no_such_folder/",
        "storage/fold.py::no_such_function",
        "storage/fold.py::no_such_class.run",
        "_cells/src/slab.c::no_such_function",
        "failpoints/*::test_no_such_test",
    ],
)
def test_a_path_that_does_not_exist_is_found(wrong: str) -> None:
    """The control: each kind of wrong name is reported, and right ones beside it are not."""
    text = f"`storage/fold.py::fold` `storage/` `{wrong}`\n```\n`in/code.py`\n```\n"
    assert [wrong] == list(wrong_names(text, "docs/design/architecture.md"))


def constants_in_parentheses(text: str) -> Iterator[tuple[str, str]]:
    """Yield each ``path`` (`name`) of a page: a file, and what stands in parentheses behind it."""
    yield from re.findall(r"`([\w./]+\.(?:py|c|h))` \(`(\w+)`\)", text)


def test_names_in_parentheses_are_in_their_files() -> None:
    """What architecture.md tells to change in a file is there."""
    text = ARCHITECTURE.read_text(encoding="utf-8")
    pairs = list(constants_in_parentheses(text))
    assert pairs
    sources = {
        path: (ROOT / next(iter(files_of(path, "docs/design/")))).read_text(encoding="utf-8") for path, _ in pairs
    }
    assert [] == [(path, name) for path, name in pairs if not re.search(rf"\b{name}\b", sources[path])]


def test_architecture_has_every_room() -> None:
    """Each layer of tests/test_architecture.py is in the picture of the rooms, and no other one; lower ones below."""
    layers = runpy.run_path(str(ROOT / "tests" / "test_architecture.py"))["LAYERS"]
    text = ARCHITECTURE.read_text(encoding="utf-8")
    picture = text.partition("## Rooms")[2].partition("```\n")[2].partition("```")[0]
    rows = [re.split(r"\s{3,}", line.strip())[0].split() for line in picture.splitlines()]
    assert set(layers) == {room for row in rows for room in row}
    tops = [max(layers.index(room) for room in row) for row in rows]
    assert sorted(tops, reverse=True) == tops


def modules() -> list[str]:
    """The modules of the library and the sources of its compiled part, as architecture.md names them."""
    paths = [path for path in tree() if path.startswith("mpmetrics/") and path.endswith((".py", ".c", ".h"))]
    return [path.removeprefix("mpmetrics/") for path in paths if not path.endswith("/__init__.py")]


def missing_modules(text: str) -> list[str]:
    """The modules that a page does not name."""
    return sorted(path for path in modules() if f"`{path}`" not in text)


def test_architecture_names_every_module() -> None:
    """A reader finds each file in one of the tables; packages' ``__init__.py`` need no line."""
    assert [] == missing_modules(ARCHITECTURE.read_text(encoding="utf-8"))


def test_a_module_that_is_not_named_is_found() -> None:
    """The control: a page without one of its names lacks that module."""
    text = ARCHITECTURE.read_text(encoding="utf-8")
    assert ["storage/fold.py"] == missing_modules(text.replace("`storage/fold.py`", ""))
