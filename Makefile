# `make demo` and `make test` do all their own set-up. ARGS passes on: make demo ARGS="--seed 3"
.PHONY: help setup demo test lint check eval benchmark
ARGS ?=

help:
	@echo "make demo       pick a cube up and put it where the goal image shows it, on the shipped weights"
	@echo "make test       the test suite"
	@echo "make check      lint, formatting, types, then the test suite"
	@echo "make eval       the table of results in README.md, 100 episodes a row"
	@echo "make benchmark  planners, simulator and control loop, timed and tried"
	@echo "make setup      only the set-up: .venv, pinned dependencies, off-screen OpenGL"

setup:
	@scripts/setup.sh

demo: setup
	.venv/bin/latent-mpc demo $(ARGS)

test: setup
	.venv/bin/python -m pytest $(ARGS)

lint: setup
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

check: lint test

eval: setup
	.venv/bin/latent-mpc eval $(ARGS)

benchmark: setup
	.venv/bin/latent-mpc bench planners $(ARGS)
	set -e; for script in $$(grep -l __main__ benchmarks/*.py | grep -v lewm); do .venv/bin/python "$$script"; done
