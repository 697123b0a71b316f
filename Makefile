# Two commands: `make demo` shows the product at work, `make test` runs everything that CI runs. Both install what they
# need on a fresh Debian 12 with root.

UV := $(shell command -v uv 2>/dev/null || echo .venv-uv/bin/uv)
RUN := $(UV) run --quiet --locked

.PHONY: demo test lint unit lab-test-1 lab-test-2 bench bench-backup soak clean

demo: .venv/ready
	$(RUN) python -m tests.lab.demo

# Lab tests wait most of the time: two labs side by side take hardly longer than one, and the unit tests come after the
# shorter half. What the first line of work says is shown at its end.
test: lint
	@{ $(MAKE) --no-print-directory -k lab-test-1 unit; } > .first.log 2>&1 & first=$$!; \
	$(MAKE) --no-print-directory lab-test-2; second=$$?; \
	wait $$first; first=$$?; cat .first.log; rm -f .first.log; \
	[ $$first -eq 0 ] && [ $$second -eq 0 ]
	@echo "make test: all of it passed"

lint: .venv/ready
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy

unit: .venv/ready
	$(RUN) pytest -q tests/unit tests/lab/gitlab_standin

lab-test-1: .venv/ready
	LAB_NAME=one $(RUN) pytest -q --durations=15 tests/lab/test_[a-c]*.py

lab-test-2: .venv/ready
	LAB_NAME=two $(RUN) pytest -q --durations=15 tests/lab/test_[d-z]*.py

soak: .venv/ready # the long form of test_soak.py and test_move.py: more than an hour
	SOAK=long LAB_NAME=soak $(RUN) pytest -q -rP tests/lab/test_soak.py tests/lab/test_move.py

bench: .venv/ready # ours, Ansible and bare OpenSSH on 1, 10, 30, 60 nodes: docs/benchmark-speed.md; half an hour
	LAB_NODES=60 LAB_NAME=speed $(RUN) --group bench python -m tests.bench.speed

bench-backup: .venv/ready # backup and restore against bare pg_dump, pg_restore and restic: docs/benchmark-backup.md
	LAB_NAME=bench $(RUN) python -m tests.bench.backup

.venv/ready: pyproject.toml uv.lock tests/lab/bootstrap.sh
	sh tests/lab/bootstrap.sh
	$(UV) sync --quiet --locked
	touch $@

clean: # stops the lab and removes what was installed into this folder
	-$(RUN) lab down
	rm -rf .venv .venv-uv .lab
