# The two commands of the README are `make run` and `make test`; the rest is
# for those who work on Ringfence.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# s3s declares Rust 1.96 and compiles unchanged on 1.95: an older toolchain is
# told not to mind; a newer one is not.
RUSTC_MINOR := $(shell rustc --version 2>/dev/null | sed -E 's/^rustc 1\.([0-9]+).*/\1/')
OLD := $(shell [ "$(RUSTC_MINOR)" -lt 96 ] 2>/dev/null && echo --ignore-rust-version)
CARGO := cargo
FLAGS := --locked $(OLD)
TARGET := $(or $(CARGO_TARGET_DIR),target)
DATA := $(or $(RINGFENCE_DATA),./ringfence-data)
PYTEST := .venv/bin/python -m pytest -c tests/pytest.ini --rootdir tests tests

.PHONY: help
help: ## Say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "  make %-8s %s\n", $$1, $$2}'

.PHONY: build
build: ## Build the release binary
	$(CARGO) build $(FLAGS) --release -p ringfence

.PHONY: run
run: build ## Build and start it on ./ringfence-data
	@exec $(TARGET)/release/ringfence serve --data $(DATA)

.PHONY: demo
demo: build ## Show everything on the project's own tree
	@exec $(TARGET)/release/ringfence demo

.PHONY: test
test: format lint deny unit black-box ## Everything that must pass before a change is taken

.PHONY: format
format:
	$(CARGO) fmt --all --check

.PHONY: lint
lint:
	$(CARGO) clippy $(FLAGS) --workspace --all-targets --quiet -- -D warnings

# Licences, sources and bans. cargo-deny is built once, beside the other tools.
.PHONY: deny
deny:
	@if ! cargo deny --version > /dev/null 2>&1 && ! [ -x $(TARGET)/tools/bin/cargo-deny ]; then \
	  echo "building cargo-deny, once"; \
	  CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off \
	    CARGO_TARGET_DIR=$(TARGET)/tools/build $(CARGO) install --locked --quiet --root $(TARGET)/tools cargo-deny; \
	  rm -rf $(TARGET)/tools/build; \
	fi
	PATH="$$PATH:$(abspath $(TARGET))/tools/bin" cargo deny --locked --log-level error check bans licenses sources

.PHONY: unit
unit: .venv/ready node-ready
	@export PATH="$(CURDIR)/.venv/bin:$$PATH"; \
	if cargo nextest --version > /dev/null 2>&1; then \
	  $(CARGO) nextest run $(FLAGS) --workspace --cargo-quiet; \
	else \
	  $(CARGO) test $(FLAGS) --workspace --quiet --lib --bins --tests; \
	fi
	$(CARGO) test $(FLAGS) --workspace --quiet --doc

.PHONY: black-box
black-box: .venv/ready
	$(CARGO) build $(FLAGS) -p ringfence --quiet
	RINGFENCE_BIN=$(abspath $(TARGET))/debug/ringfence $(PYTEST)

# Debian packages by name, then a venv of PyPI packages by name.
.venv/ready: tests/requirements.txt tests/packages.txt
	@./.ci/packages tests/packages.txt
	@[ -x .venv/bin/python ] || python3 -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

.PHONY: test-services
test-services: .venv/ready node-ready ## Install the servers that tests talk to

# The Azure emulator of the site contract tests.
.PHONY: node-ready
node-ready: tests/services/node_modules/.ready
tests/services/node_modules/.ready: tests/services/package.json tests/services/package-lock.json
	@npm ci --silent --no-audit --no-fund --prefix tests/services
	@touch $@

HOURS := 2

.PHONY: soak
soak: build .venv/ready ## Thousands of kills and simulated histories, new seeds, until HOURS (2) are over
	$(CARGO) build $(FLAGS) --release -p ringfence-sim
	PYTHON=$(CURDIR)/.venv/bin/python RINGFENCE_BIN=$(abspath $(TARGET))/release/ringfence tests/soak.sh $(HOURS)

.PHONY: bench
bench: ## One question each: sealing, recording, deciding
	$(CARGO) bench $(FLAGS) -p ringfence-format -p ringfence-log -p ringfence-access

.PHONY: mutants
mutants: ## Take each check of the session verifier away and see that a test fails (minutes)
	python3 tests/mutate.py

SECONDS_EACH := 60

.PHONY: fuzz
fuzz: ## Parsers of bytes from outside, SECONDS_EACH (60) per target; needs a nightly toolchain
	@if ! cargo fuzz --version > /dev/null 2>&1 && ! [ -x $(TARGET)/tools/bin/cargo-fuzz ]; then \
	  $(CARGO) install --locked --quiet --root $(TARGET)/tools cargo-fuzz; \
	fi
	@export PATH="$$PATH:$(abspath $(TARGET))/tools/bin"; \
	for target in $$(cargo +nightly fuzz list); do \
	  echo "fuzz $$target"; mkdir -p fuzz/corpus/$$target; \
	  cargo +nightly fuzz run -O -a $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
	    -max_total_time=$(SECONDS_EACH) -timeout=60 -print_final_stats=0; \
	done

.PHONY: clean-data
clean-data: ## Throw the default data directory away, keys and all
	rm -rf ./ringfence-data
