# Every target makes what it needs; a second run starts at once. Paths are relative: the checkout may lie
# in a directory with spaces. `PYTHON=/path/to/python3.12 make demo` chooses the interpreter.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The bindings alone, without compiling llama.cpp, unless the user asks for a build of their own
# (CMAKE_ARGS=-DGGML_CUDA=on make demo).
INSTALL := CMAKE_ARGS="$${CMAKE_ARGS:--DLLAMA_BUILD=OFF}" $(PIP) install --quiet --prefer-binary
# libp2p names a package that has to be compiled and that Ed25519 identities never call.
STAND_IN := ./packaging/fastecdsa
TOOLS := ../$(BIN)/python -m tools
LIBRARY := $(BIN)/python -m unhosted.node.shell.engine.library_build
QUESTION ?= Explain in one sentence what a computer is.

.PHONY: help demo test lint bench engine contracts contracts-slither contracts-deep crash clean

help:
	@echo 'make demo    install, check this machine, and let a real model answer'
	@echo 'make test    run the tests'
	@echo 'make lint    ruff and mypy'
	@echo 'make engine  build the engine natively for this processor, with RPC (about 4 minutes)'
	@echo 'make bench   measure side by side with llama.cpp'"'"'s own server'
	@echo 'make contracts  compile, compare and test the contracts (needs Node.js and npm)'
	@echo 'make contracts-deep  the same with planted faults, static analysis and proofs (long)'
	@echo 'make crash   kill the spending ledger a few hundred times and look for a lost cent'
	@echo 'make clean   remove what the others made in this directory'

demo: .venv/.installed
	$(BIN)/unhosted doctor
	$(BIN)/unhosted run --temperature 0 --max-tokens 48 '$(QUESTION)'
	$(BIN)/unhosted devnet --try

# The page is tested in a real browser where there is one, and in CI always. Money is tested on a real chain,
# anvil, which npm brings.
test: .venv/.installed-dev contracts/node_modules/.installed
	@if [ -n "$$CI" ] || { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null 2>&1; then \
	  exec $(BIN)/python -m pytest $(PYTEST_ARGS); \
	else \
	  echo 'note: no Chromium, so tests/browser is left out; apt-get install chromium brings it in'; \
	  exec $(BIN)/python -m pytest --ignore=tests/browser $(PYTEST_ARGS); \
	fi

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

engine: .venv/.installed
	$(LIBRARY)

bench: .venv/.installed-dev
	$(LIBRARY) --with-server
	$(BIN)/python -m bench

# Compiles the contracts anew, compares with what is checked in, and tests them. Users need none of it.
contracts: .venv/.installed contracts/node_modules/.installed
	cd contracts && $(TOOLS).build --check
	cd contracts && $(TOOLS).forge test
	cd contracts && $(TOOLS).gas
	cd contracts && $(TOOLS).coverage

# Static analysis, in an environment of its own: it needs another web3.
contracts-slither: contracts
	cd contracts && $(TOOLS).analyse slither

# Thousands of runs, proofs, and then 91 planted faults (about 10 minutes of those).
contracts-deep: contracts-slither
	cd contracts && FOUNDRY_PROFILE=deep $(TOOLS).forge test
	cd contracts && $(TOOLS).analyse halmos
	cd contracts && $(TOOLS).mutants

contracts/node_modules/.installed: contracts/package.json
	@command -v npm >/dev/null || { \
	  echo 'error: npm is missing; it brings the compiler and the local chain of the tests.' \
	    'Next, on Debian and Ubuntu: apt-get install nodejs npm' >&2; exit 1; }
	cd contracts && npm install --ignore-scripts --no-audit --no-fund --no-package-lock --loglevel=error
	@touch $@

crash: .venv/.installed-dev
	$(BIN)/python -m tests.node.money.crash_ledger --kills 240 --cap-usd 0.8 --request-micros-max 1200

clean:
	rm -rf contracts/build contracts/node_modules contracts/.venv-analysis
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis bench/results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1 || echo missing); Python 3.11 or newer is needed." \
	    "Next: install one and run PYTHON=/path/to/it make $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "error: $(PYTHON) -m venv failed. Next, on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

# Prebuilt where a wheel fits and its library works here, else the lean native build.
.venv/.installed: pyproject.toml | .venv/.created
	@echo 'installing into .venv (about a minute)'
	@$(INSTALL) $(STAND_IN)
	@$(INSTALL) --only-binary xllamacpp -e '.[prebuilt,devnet]' || { \
	  echo 'no prebuilt engine for this machine: building one'; $(INSTALL) -e '.[devnet]'; }
	@$(BIN)/python -c 'from unhosted.node.shell.engine.library import find_library; find_library()' \
	  2>.venv/library-error || { tail -n 1 .venv/library-error >&2; $(LIBRARY); }
	@touch $@

.venv/.installed-dev: pyproject.toml .venv/.installed
	@echo 'installing what the tests need'
	@$(INSTALL) -e '.[dev]'
	@# Stubs of an old trio that libp2p's dependencies bring; they hide the types trio has itself.
	@rm -rf .venv/lib/python*/site-packages/trio-stubs .venv/lib/python*/site-packages/outcome-stubs
	@touch $@
