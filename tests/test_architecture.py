"""The layers of the code: these tests read the imports of all modules and check them against the layers.

A rule is a function from a path and a source text to complaints. No module is imported, so each rule has a control: an
invented piece of code that breaks it.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Lowest first; a room is a package or a module. A module may import from its own room and from lower ones.
LAYERS = (
    "errors",
    "fork",
    "turns",
    "log_once",
    "_cells",
    "names",
    "storage",
    "callbacks",
    "provider_base",
    "instruments",
    "meter",
    "serving",
    "provider",
    "instrumentation",
    "collector",
    "registry",
    "formats",
    "http",
    "endpoint",
    "drivers",
    "integrations",
    "cli",
    "__main__",
    "gunicorn_conf",
)
RANK = {name: rank for rank, name in enumerate(LAYERS)}
TOP = RANK["integrations"]
FRONT_DOOR = "__init__"  # mpmetrics/__init__.py collects the public names and may import everything

ONLY_IN = {
    "fcntl": ("mpmetrics/storage/locks.py", "mpmetrics/_cells/files.py"),
    "filelock": ("mpmetrics/storage/locks.py",),
    "register_at_fork": ("mpmetrics/fork.py", "mpmetrics/_cells/maps.py"),
}
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb"}
TWINS = "mpmetrics/_cells/__init__.py"
"""May read the environment at import: it chooses the twin then, because a class cannot change its base later."""

Rule = Callable[[str, str], Iterator[str]]


def unit(path: str) -> str:
    """Return the room of a file: `storage` for `mpmetrics/storage/slab.py`."""
    package, *rest = path.removesuffix(".py").split("/")
    return rest[0] if package == "mpmetrics" else package


def imported(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield each imported name with its line, absolute and complete: `mpmetrics.storage.slab.Slab`.

    Imports inside functions count, and so do those for type checkers only, and `import_module("...")`.
    """
    parents = path.split("/")[:-1]
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = parents[: len(parents) - level + 1] if level else []
                start = ".".join([*base, *([module] if module else [])])
                yield from ((node.lineno, f"{start}.{alias.name}") for alias in names)
            case ast.Call(
                func=ast.Name(id=name) | ast.Attribute(attr=name), args=[ast.Constant(value=str(target)), *_]
            ):
                if name in {"import_module", "__import__"}:
                    yield node.lineno, target


def imports_point_down(path: str, source: str) -> Iterator[str]:
    """Complain about each import that points up."""
    here = unit(path)
    if here == FRONT_DOOR or here not in RANK:
        return  # `names_are_known` complains about an unknown name
    for line, name in imported(path, ast.parse(source)):
        package, *rest = name.split(".")
        if package == "gunicorn_conf":
            there = package
        elif package == "mpmetrics":
            there = rest[0] if rest and rest[0] in RANK else FRONT_DOOR
        else:
            continue
        if there == here:
            continue
        if there == FRONT_DOOR:
            if RANK[here] < TOP:
                yield f"{path}:{line}: {here} imports {name} from mpmetrics/__init__.py; import it from its own module"
        elif RANK[there] > RANK[here]:
            yield f"{path}:{line}: {here} imports {name}, which is in a higher layer"


def names_are_known(path: str, _source: str) -> Iterator[str]:
    """Complain about a file whose room has no place in the layers."""
    if unit(path) not in RANK and unit(path) != FRONT_DOOR:
        yield f"{path}: {unit(path)} is not in the layers; add it to LAYERS in this test"


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is evaluated when a module is imported: everything except the bodies of functions.

    A default that is `os.environ` itself is left out: it refers to the mapping and reads nothing from it.
    """
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST):
                continue
            if not (name in {"defaults", "kw_defaults"} and ast.unparse(child) == "os.environ"):
                yield child
                yield from at_import(child)


def import_reads_no_environment(path: str, source: str) -> Iterator[str]:
    """Complain about a module that reads environment variables while it is imported."""
    for node in at_import(ast.parse(source)):
        match node:
            case ast.Attribute(attr=name) | ast.Name(id=name) if name in ENVIRONMENT and path != TWINS:
                yield f"{path}:{node.lineno}: {name} is used at import time"


def mentioned(path: str, source: str) -> Iterator[tuple[int, str]]:
    """Yield each identifier that a module uses or imports, with its line; dotted imports part by part."""
    tree = ast.parse(source)
    for line, name in imported(path, tree):
        yield from ((line, part) for part in name.split("."))
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) | ast.Name(id=name):
                yield node.lineno, name


def specialities_stay_home(path: str, source: str) -> Iterator[str]:
    """Complain about locks and fork handlers outside the modules in ONLY_IN."""
    for line, name in mentioned(path, source):
        if name in ONLY_IN and path not in ONLY_IN[name]:
            yield f"{path}:{line}: {name} belongs in {' or '.join(ONLY_IN[name])}"


def nothing_packs_into(path: str, source: str) -> Iterator[str]:
    """Complain about `struct.pack_into`: it writes zeros before the value, and readers see the zeros."""
    for line, name in mentioned(path, source):
        if name == "pack_into":
            yield f"{path}:{line}: pack_into lets readers of shared memory see zeros"


RULES: tuple[Rule, ...] = (
    imports_point_down,
    names_are_known,
    import_reads_no_environment,
    specialities_stay_home,
    nothing_packs_into,
)


def shipped() -> Iterator[tuple[str, str]]:
    """Yield path and source of each module of the packages."""
    for package in ("mpmetrics", "gunicorn_conf"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_code_keeps_the_rule(rule: Rule) -> None:
    """No module of the packages breaks the rule."""
    complaints = [complaint for path, source in shipped() for complaint in rule(path, source)]

    assert [] == complaints


def module_imports(path: str, source: str, modules: set[str]) -> set[str]:
    """Return the paths among ``modules`` that a file imports when it runs, without imports for type checkers only."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for _, name in imported(path, tree):
        if name.endswith("._native"):
            continue  # the compiled module, which imports nothing
        parts = name.split(".")
        for length in range(len(parts), 1, -1):
            at = "/".join(parts[:length])
            if f"{at}.py" in modules or f"{at}/__init__.py" in modules:
                found.add(f"{at}.py" if f"{at}.py" in modules else f"{at}/__init__.py")
                break
    return found


def circle(sources: dict[str, str]) -> list[str]:
    """Return a circle of imports among these files, by path; an empty list if there is none."""
    graph = {path: module_imports(path, source, set(sources)) - {path} for path, source in sources.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_no_circle_of_imports() -> None:
    """No modules import each other in a circle, neither within a room nor by imports inside functions."""
    assert [] == circle(dict(shipped()))


def test_a_circle_of_imports_is_found() -> None:
    """The control: a circle through an import inside a function is found."""
    sources = {
        "mpmetrics/storage/a.py": "from mpmetrics.storage import b",
        "mpmetrics/storage/b.py": "def late():\n    from mpmetrics.storage.a import A",
    }
    assert {*sources} == {*circle(sources)}
    assert [] == circle(sources | {"mpmetrics/storage/b.py": "if TYPE_CHECKING:\n    from mpmetrics.storage import a"})


def test_the_code_is_found() -> None:
    """The control: the rules are applied to both packages."""
    assert {"mpmetrics", "gunicorn_conf"} == {path.split("/")[0] for path, _ in shipped()}


BAD = [
    # upwards, in each way to write it
    (imports_point_down, "mpmetrics/storage/slab.py", "from mpmetrics.collector.merge import merge"),
    (imports_point_down, "mpmetrics/storage/slab.py", "from mpmetrics import collector"),
    (imports_point_down, "mpmetrics/storage/slab.py", "import mpmetrics.collector.merge as merge"),
    (imports_point_down, "mpmetrics/storage/slab.py", "from ..collector import merge"),
    (imports_point_down, "mpmetrics/storage/slab.py", "from .. import meter"),
    (imports_point_down, "mpmetrics/meter.py", "from .collector import merge"),
    (imports_point_down, "mpmetrics/storage/__init__.py", "from ..meter import Meter"),
    (
        imports_point_down,
        "mpmetrics/storage/slab.py",
        "def late():\n    from mpmetrics.provider import Provider",
    ),
    (
        imports_point_down,
        "mpmetrics/storage/slab.py",
        "if TYPE_CHECKING:\n    from mpmetrics.meter import Meter",
    ),
    (imports_point_down, "mpmetrics/storage/slab.py", "importlib.import_module('mpmetrics.collector')"),
    (imports_point_down, "mpmetrics/http/server.py", "from mpmetrics.drivers import PrometheusDriver"),
    (imports_point_down, "mpmetrics/integrations/gunicorn.py", "from mpmetrics.cli import main"),
    # from each layer to the one above
    (imports_point_down, "mpmetrics/errors.py", "from mpmetrics._cells import add"),
    (imports_point_down, "mpmetrics/_cells/pure.py", "from mpmetrics.storage import slab"),
    (imports_point_down, "mpmetrics/storage/slab.py", "from mpmetrics.instruments import counter"),
    (imports_point_down, "mpmetrics/instruments/counter.py", "from mpmetrics.collector import merge"),
    (imports_point_down, "mpmetrics/provider.py", "from mpmetrics.collector import merge"),
    (imports_point_down, "mpmetrics/collector/merge.py", "from mpmetrics.formats import text"),
    (imports_point_down, "mpmetrics/collector/merge.py", "from mpmetrics.drivers import flush"),
    (imports_point_down, "mpmetrics/formats/text.py", "from mpmetrics.cli import main"),
    (imports_point_down, "mpmetrics/drivers/flush.py", "from mpmetrics.integrations import gunicorn"),
    (imports_point_down, "mpmetrics/integrations/gunicorn.py", "import gunicorn_conf"),
    # mpmetrics/__init__.py
    (imports_point_down, "mpmetrics/collector/merge.py", "from mpmetrics import Counter"),
    (imports_point_down, "mpmetrics/collector/merge.py", "from .. import Counter"),
    (imports_point_down, "mpmetrics/collector/merge.py", "import mpmetrics"),
    (names_are_known, "mpmetrics/helpers.py", ""),
    (names_are_known, "mpmetrics/helpers/lists.py", ""),
    (
        import_reads_no_environment,
        "mpmetrics/provider.py",
        "import os\nBIND = os.environ.get('MPMETRICS_BIND')",
    ),
    (
        import_reads_no_environment,
        "mpmetrics/provider.py",
        "from os import getenv\nBIND = getenv('MPMETRICS_BIND')",
    ),
    (import_reads_no_environment, "mpmetrics/provider.py", "if os.environ:\n    import json"),
    (
        import_reads_no_environment,
        "mpmetrics/provider.py",
        "class A:\n    bind = os.environ['MPMETRICS_BIND']",
    ),
    (import_reads_no_environment, "mpmetrics/provider.py", "def f(bind=os.getenv('MPMETRICS_BIND')): ..."),
    (
        import_reads_no_environment,
        "mpmetrics/provider.py",
        "def f(*, bind=os.environ['MPMETRICS_BIND']): ...",
    ),
    (import_reads_no_environment, "mpmetrics/provider.py", "@os.environ.get('X')\ndef f(): ..."),
    (specialities_stay_home, "mpmetrics/storage/slab.py", "import filelock"),
    (specialities_stay_home, "mpmetrics/storage/slab.py", "from filelock import UnixFileLock"),
    (specialities_stay_home, "mpmetrics/fork.py", "def f():\n    import fcntl"),
    (specialities_stay_home, "mpmetrics/storage/locks.py", "os.register_at_fork(before=f)"),
    (specialities_stay_home, "mpmetrics/provider.py", "from os import register_at_fork"),
    (nothing_packs_into, "mpmetrics/_cells/pure.py", "struct.pack_into('d', page, 0, 1.0)"),
    (nothing_packs_into, "mpmetrics/_cells/pure.py", "struct.Struct('d').pack_into(page, 0, 1.0)"),
    (nothing_packs_into, "mpmetrics/_cells/pure.py", "from struct import pack_into"),
]


@pytest.mark.parametrize(("rule", "path", "source"), BAD)
def test_the_rule_reports_what_breaks_it(rule: Rule, path: str, source: str) -> None:
    """The control: each rule complains about code that breaks it, and names the file."""
    complaints = list(rule(path, source))

    assert complaints
    assert all(complaint.startswith(path) for complaint in complaints)


GOOD = [
    (
        "mpmetrics/__init__.py",
        "from mpmetrics.integrations import gunicorn\nfrom .instruments.counter import Counter",
    ),
    ("mpmetrics/__main__.py", "from mpmetrics.cli import main"),
    ("gunicorn_conf/__init__.py", "from mpmetrics.integrations.gunicorn import install\ninstall(globals())"),
    (
        "mpmetrics/storage/slab.py",
        "from mpmetrics import errors\nfrom mpmetrics._cells import add\nfrom . import format",
    ),
    (
        "mpmetrics/provider.py",
        "from mpmetrics.meter import Meter\nfrom .storage.slab import Slab\nimport os, struct",
    ),
    ("mpmetrics/instruments/counter.py", "from mpmetrics.provider_base import default_provider"),
    (
        "mpmetrics/integrations/gunicorn.py",
        "import mpmetrics\nfrom mpmetrics import get_provider\nimport gunicorn",
    ),
    ("mpmetrics/storage/locks.py", "import fcntl"),
    ("mpmetrics/storage/locks.py", "import filelock"),
    ("mpmetrics/fork.py", "import os\nos.register_at_fork(before=lambda: None)"),
    ("mpmetrics/provider.py", "import os\ndef bind():\n    return os.environ.get('MPMETRICS_BIND')"),
    ("mpmetrics/provider.py", "import os\ndef bind(at, environ=os.environ, *, more=None): ..."),
    ("mpmetrics/provider.py", "import os\nclass A:\n    read = lambda self: os.getenv('MPMETRICS_BIND')"),
    ("mpmetrics/_cells/pure.py", "struct.unpack_from('d', page, 0)\nstruct.pack('d', 1.0)"),
]


@pytest.mark.parametrize(("path", "source"), GOOD)
def test_the_rules_let_good_code_pass(path: str, source: str) -> None:
    """No rule complains about code that the design allows."""
    assert [] == [complaint for rule in RULES for complaint in rule(path, source)]
