# Two commands: `make demo` shows the product at work, `make test` runs everything that CI runs. Both install what they
# need on a fresh Debian 12 with root.

UV := $(shell command -v uv 2>/dev/null || echo .venv-uv/bin/uv)
RUN := $(UV) run --quiet --locked

.PHONY: demo test lint unit lab-test clean

demo: .venv/ready
	$(RUN) python -m tests.lab.demo

test: lint unit lab-test
	@echo "make test: all of it passed"

lint: .venv/ready
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy

unit: .venv/ready
	$(RUN) pytest -q tests/unit tests/lab/gitlab_standin

lab-test: .venv/ready
	$(RUN) pytest -q tests/lab --ignore tests/lab/gitlab_standin

.venv/ready: pyproject.toml uv.lock tests/lab/bootstrap.sh
	sh tests/lab/bootstrap.sh
	$(UV) sync --quiet --locked
	touch $@

clean: # stops the lab and removes what was installed into this folder
	-$(RUN) lab down
	rm -rf .venv .venv-uv .lab
