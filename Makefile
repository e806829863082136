# Two commands do everything on a fresh Debian with Rust and Python 3: `make demo` and `make test`. (Node, nginx and HAProxy are for eval/edge/smuggle.py.)
# Every set-up step says what it installs and why, does nothing when it is there already, and names what is missing.
# Always the whole workspace: one package alone has other features of shared crates, and the document store would be built anew.

SHELL := /bin/bash
.DEFAULT_GOAL := help

TARGET   := $(or $(CARGO_TARGET_DIR),target)
GATEWAY  := $(TARGET)/demo/weirgate
EVAL     := $(TARGET)/demo/weirgate-eval
VENV     := .venv

.PHONY: help setup demo run test lint bench bench-edge bench-rag release clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## Install what a build needs and is missing
	@scripts/setup build

demo: setup ## Build, then run the whole routing challenge through the gateway
	cargo build --profile demo --workspace
	@scripts/demo $(GATEWAY) $(EVAL)

run: setup ## Serve with config.toml and the folder it names, config/; a clone has none, see README.md
	cargo build --profile demo --workspace
	$(GATEWAY) serve --config config.toml

test: setup ## Set up and run the whole test suite
	@scripts/setup test
	python3 eval/questions/build.py --check
	cargo test --workspace

lint: setup ## Format, clippy, dependencies, documentation
	@scripts/setup lint
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo deny --log-level error check bans licenses sources
	@scripts/advisories
	@scripts/verify-unit
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace --document-private-items
	cargo check --quiet --locked --manifest-path fuzz/Cargo.toml --target-dir $(TARGET)/fuzz

bench: setup ## Start time, memory, and load beside a minimal proxy
	cargo build --profile demo --workspace --features weirgate-eval/pingora-min
	@scripts/bench $(GATEWAY) $(EVAL) $(TARGET)/demo/pingora-min

bench-edge: setup ## Proxying without models, beside nginx, HAProxy and Envoy where they are installed
	cargo build --profile demo --workspace --features weirgate-eval/pingora-min
	@scripts/bench-edge $(GATEWAY) $(EVAL) $(TARGET)/demo/pingora-min $(ENVOY)
	@scripts/bench-config $(GATEWAY) data/runs

bench-rag: setup ## Retrieval step by step on the samples in eval/rag, or on SETS="folder folder"
	cargo build --profile demo --workspace
	@scripts/eval-rag $(GATEWAY) $(EVAL) $(SETS)

release: setup ## Stripped binary, assets, unit and checksums in dist/
	cargo build --profile dist --workspace
	@scripts/release $(TARGET)/dist/weirgate

clean: ## Remove dist/ and data/: what demo, bench, run and release made
	rm -rf dist data
