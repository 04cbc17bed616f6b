# Longshore: the commands of this repository. `make demo` and `make test` need only Rust, git, curl, make and
# Python 3; they fetch what else is missing by scripts/setup.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
export PATH := $(CURDIR)/.tools/bin:$(PATH)

.PHONY: help demo test sim check fix build bench figures

help: ## Show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: ## See the main job on real containers, from an empty machine to a clean one
	scripts/setup
	cargo build --release --locked -p longshore
	scripts/demo

test: ## Run every test, with real NATS and real Docker
	scripts/setup --test
	scripts/test

sim: ## Simulate clusters that break, one a seed; SEEDS=5000 FIRST=1000 for others, SEED=7 LOG=7.log for one to step through
	cargo build --release --locked -p longshore-sim
	target/release/longshore-sim $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),1000) --first $(or $(FIRST),0)) $(if $(LOG),--log $(LOG))

check: ## What never writes: format, lints, licences (what CI runs before the tests)
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked --quiet
	scripts/check-core
	scripts/check-deny

fix: ## What writes: format, and lints that mend themselves
	cargo fmt --all
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

build: ## The binary, optimised
	cargo build --release --locked -p longshore

figures: ## Compare the schedulers in virtual time, and write the figures and plots of docs/scheduling.md
	cargo build --release --locked -p longshore
	scripts/scheduling-figures

bench: ## Measure, and write docs/benchmarks.md and .json; ONLY=launch, scheduler, failover, log, state or size for a part, MOST=10 for smaller launches, WORKERS=100 TASKS=5000 for a smaller size, IN_FLIGHT=10 for the log with so many clients alone, TRIAL=1 to write nothing
	scripts/setup
	cargo build --release --locked -p longshore
	cargo run --release --locked -p longshore-bench -- $(if $(ONLY),--only $(ONLY)) $(if $(MOST),--most $(MOST)) $(if $(WORKERS),--workers $(WORKERS)) $(if $(TASKS),--tasks $(TASKS)) $(if $(IN_FLIGHT),--in-flight $(IN_FLIGHT)) $(if $(TRIAL),--trial)
