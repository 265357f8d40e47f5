# Everything that one does with this repository. `make` alone lists it.

SERVICES := deploy/local/services
FLEET    := target/release/fleet
ONLY     ?=

CARGO_MACHETE := 0.9.2
CARGO_DENY    := 0.20.2
TOOLS         := target/tools/machete-$(CARGO_MACHETE)-deny-$(CARGO_DENY)

.DEFAULT_GOAL := help
.PHONY: help demo up down test test-cluster check bench docs image

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: up ## Distribute 200,000 rows through the whole fleet, and count what arrived
	@cargo build --release --locked --package fleet --example demo
	@cargo build --release --locked --package fleet --bin fleet
	@eval "$$($(SERVICES) env)" && target/release/examples/demo $(FLEET) deploy/demo.toml

up: ## Install and start the services: RabbitMQ, ClickHouse (two shards), Elasticsearch
	@$(SERVICES) up

down: ## Stop the services that were started here; their data stays
	@$(SERVICES) down

test: up ## Run all tests, against the real services
	cargo test --workspace --locked --no-fail-fast
	deploy/local/test

test-cluster: ## Run the tests that prove a run on a replicated cluster, in containers (docker with compose)
	@deploy/local/cluster up
	@eval "$$(deploy/local/cluster env)" && \
		cargo test --package fleet --test e2e --locked --no-fail-fast -- proof:: replicas:: --include-ignored
	@deploy/local/cluster down

check: $(TOOLS) ## Check formatting, lints and dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- --deny warnings
	$(TOOLS)/bin/cargo-machete
	$(TOOLS)/bin/cargo-deny check licenses bans sources

$(TOOLS):
	cargo install --quiet --locked --root $@ cargo-machete@$(CARGO_MACHETE)
	cargo install --quiet --locked --root $@ cargo-deny@$(CARGO_DENY)

bench: up ## Measure; ONLY=relay measures one (release build; results in target/bench/results.json)
	cargo bench --locked --package fleet --bench speed -- $(ONLY)

docs: ## Write the pages that are generated
	cargo run --locked --quiet --package fleet -- config reference > docs/CONFIGURATION.md

image: ## Build the container image, with a Docker engine
	docker build --file docker/Dockerfile --tag keyword-fleet .
