"""The suite with other versions of Python, gunicorn and prometheus_client; `nox -l` lists the sessions.

`nox -s tests-3.13 -- tests/storage` passes what comes behind `--` on to pytest. A Python that is not installed is
skipped, and nox says so. Each session has the compiled core, which needs a C compiler.
"""

from __future__ import annotations

import nox

PYTHONS = ["3.11", "3.12", "3.13", "3.14", "3.15"]
GUNICORNS = ["23", "24", "25", "26", "newest"]
PROMETHEUS_CLIENTS = ["0.22.0", "0.22", "0.23", "0.24", "0.25", "newest"]
"""Of each the newest that begins like this; the first are the oldest that pyproject.toml allows."""

nox.needs_version = ">=2025.2"
nox.options.sessions = ["tests", "gunicorn", "prometheus_client"]
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"


def install(session: nox.Session, *requirements: str) -> None:
    """Install the checkout with what its tests need; where the compiled core cannot be built, this fails."""
    session.env["MPMETRICS_REQUIRE_EXT"] = "1"
    session.install("--quiet", "--upgrade", "--editable", ".[test]", *requirements)


def pytest(session: nox.Session, *default: str) -> None:
    """Run pytest with the arguments behind `--`, or by default with these."""
    session.run("python", "-m", "pytest", "-n", "auto", "-p", "no:cacheprovider", *(session.posargs or default))


def requirement(package: str, version: str) -> str:
    """The requirement of the newest release of this version."""
    return package if version == "newest" else f"{package}=={version}" + ".*" * (version.count(".") < 2)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the whole suite with another Python."""
    install(session)
    pytest(session)


@nox.session
@nox.parametrize("version", GUNICORNS, ids=GUNICORNS)
def gunicorn(session: nox.Session, version: str) -> None:
    """Run the tests of the integrations with another gunicorn."""
    install(session, requirement("gunicorn", version))
    pytest(session, "tests/integrations")


@nox.session
@nox.parametrize("version", PROMETHEUS_CLIENTS, ids=PROMETHEUS_CLIENTS)
def prometheus_client(session: nox.Session, version: str) -> None:
    """Run the tests of the instruments, formats and registries with another prometheus_client."""
    install(session, requirement("prometheus-client", version))
    pytest(session, "tests/instruments", "tests/formats", "tests/registry", "tests/drivers", "tests/collector")
