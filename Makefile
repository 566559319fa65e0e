# `make run` and `make test` set themselves up: Python >= 3.11 with its venv module is all they need.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# `make wheel` builds a wheel with the compiled core for each of these.
PYTHONS ?= $(BIN)/python

# SECONDS counts only when given to make itself (`make run SECONDS=10`): shells keep a variable of that name too.
RUN_ARGS :=
TORTURE_ENV :=
TORTURE_LIMIT := 300
ifeq ($(origin SECONDS),command line)
RUN_ARGS := --seconds $(SECONDS)
TORTURE_ENV := MPMETRICS_TORTURE_SECONDS=$(SECONDS)
TORTURE_LIMIT = $(shell awk 'BEGIN { print 300 + 10 * $(SECONDS) }')
endif

# What runs the compiled core most, and damaged files; ARGS=tests takes ten minutes.
ASAN_TESTS := tests/cells tests/collector tests/instruments tests/formats tests/http tests/endpoint \
    tests/torture/corruption/test_hostile.py

.DEFAULT_GOAL := help
.PHONY: help run test test-pure torture asan lint format types nox docs bench wheel smoke clean python-check
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s  %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  make run SECONDS=10   ends by itself after 10 seconds"
	@echo "  make torture SECONDS=60   goes on for about 60 seconds where a test has no end of its own"
	@echo "  make test ARGS='-k name'   passes ARGS on to pytest"
	@echo "  make wheel PYTHONS='python3.11 python3.12'   builds the compiled core for each of them"
	@echo "  PYTHON=python3.12     chooses the interpreter for a new $(VENV)"

run: $(VENV)/.installed ## start the example shop under gunicorn, send it requests, show its metrics
	@$(BIN)/python -m examples.shop.run $(RUN_ARGS)

test: $(VENV)/.installed-dev ## run the whole test suite, in parallel
	$(BIN)/python -m pytest -n auto $(ARGS)

test-pure: $(VENV)/.installed-dev ## the same with the core in Python in the place of the compiled one
	MPMETRICS_DISABLE_EXT=1 $(BIN)/python -m pytest -n auto $(ARGS)

# It asks for the compiled core: where that was not built, both runs would be of the one in Python.
torture: $(VENV)/.installed-dev ## try to break it, with each of the two cores, and show what was lost; SECONDS=600 tries for longer
	status=0; for pure in 0 1; do \
	    $(TORTURE_ENV) MPMETRICS_REQUIRE_EXT=1 MPMETRICS_DISABLE_EXT=$$pure \
	    $(BIN)/python -m pytest -q -n $$(nproc) -o timeout=$(TORTURE_LIMIT) tests/torture $(ARGS) || status=1; \
	done; exit $$status

asan: $(VENV)/.installed-dev ## run the tests of the compiled core, built with AddressSanitizer; ARGS='tests' for all
	rm -rf build/asan
	mkdir -p build/asan
	cp -r mpmetrics gunicorn_conf tests examples docs pyproject.toml setup.py MANIFEST.in LICENSE *.md Makefile build/asan/
	cd build/asan && find . -name '*.so' -delete && \
	    MPMETRICS_REQUIRE_EXT=1 MPMETRICS_BUILD_FLAGS='-fsanitize=address -fno-omit-frame-pointer -g' \
	    ../../$(BIN)/python setup.py --quiet build_ext --inplace
	cd build/asan && LD_PRELOAD=$$(gcc -print-file-name=libasan.so) PYTHONMALLOC=malloc PYTHONPATH=$$PWD \
	    ASAN_OPTIONS=detect_leaks=0:allow_user_segv_handler=0 MPMETRICS_PATIENCE=250 ASAN_IS_THERE=1 MPMETRICS_REQUIRE_EXT=1 \
	    ../../$(BIN)/python -m pytest -p no:faulthandler -p no:cacheprovider -o timeout=300 -n auto $(or $(ARGS),$(ASAN_TESTS))

lint: $(VENV)/.installed-dev ## check the code and its format with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev ## write the code as ruff formats it
	$(BIN)/ruff format .

docs: $(VENV)/.installed ## write what the documentation takes from the code
	$(BIN)/python docs/storage_format.py

bench: $(VENV)/.installed ## measure it all, against others in the same run; ARGS='peers scrapes memory requests' for parts
	$(BIN)/python benchmarks/run.py $(ARGS)

types: $(VENV)/.installed-dev ## check the types with mypy
	$(BIN)/mypy

nox: $(VENV)/.installed-dev ## test with other versions of Python, gunicorn and prometheus_client; ARGS='-l' lists the sessions
	$(BIN)/nox $(ARGS)

# What an earlier build left in build/ would land in the wheel.
wheel: $(VENV)/.installed-dev ## build wheels into dist/: manylinux with the compiled core, and a pure one
	rm -rf dist build/wheel build/lib build/lib.* build/bdist.*
	for python in $(PYTHONS); do \
	    MPMETRICS_REQUIRE_EXT=1 $(PIP) --python "$$python" wheel --quiet --no-deps --wheel-dir build/wheel . || exit 1; \
	done
	MPMETRICS_REQUIRE_EXT= MPMETRICS_BUILD_PURE=1 $(PIP) wheel --quiet --no-deps --wheel-dir dist .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m auditwheel repair --strip --wheel-dir dist build/wheel/*.whl

smoke: $(VENV)/.made ## install each wheel of dist/ for this Python in a new environment, count and scrape there
	@tag=$$($(BIN)/python -c 'import sys; print("cp%d%d" % sys.version_info[:2])'); \
	for core in compiled pure; do \
	    case $$core in compiled) wheel=$$(echo dist/*-$$tag-*manylinux*.whl);; pure) wheel=$$(echo dist/*-py3-none-any.whl);; esac; \
	    test -f "$$wheel" || { echo "make: there is no $$wheel; run make wheel first" >&2; exit 1; }; \
	    $(BIN)/python -m venv --clear --without-pip build/smoke || exit 1; \
	    $(PIP) --python build/smoke/bin/python install --quiet "$$wheel" || exit 1; \
	    (cd build/smoke && env -u PYTHONPATH -u MPMETRICS_DISABLE_EXT bin/python -I ../../tests/wheel/smoke.py $$core) || exit 1; \
	done

clean: ## remove the environment and what the tools left behind
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache

# The stamps are newer than pyproject.toml while what it asks for is installed. Either of them is one build of the project.
BUILT_FROM := pyproject.toml setup.py $(wildcard mpmetrics/_cells/src/*)

$(VENV)/.made:
	@$(MAKE) --no-print-directory python-check
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(BUILT_FROM) | $(VENV)/.made
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: $(BUILT_FROM) | $(VENV)/.made
	$(PIP) install --quiet --editable '.[dev]'
	@touch $(VENV)/.installed $@

python-check:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	    echo "make: there is no $(PYTHON) here; install Python 3.11 or later, or name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1), but Python 3.11 or later is needed; name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "make: $(PYTHON) cannot make virtual environments: its ensurepip module is missing." >&2; \
	    echo "make: on Debian and Ubuntu: apt-get install python3-venv (or $$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'))" >&2; exit 1; }
