# make demo : install and run the whole path on real data
# make test : lint, types, import contract, tests
# make test-slow: the matrices and faults that take minutes; CI runs it after `make test`
# make test-nodes: faults and growth on clusters of several nodes and on S3; CI runs it last
# make test-gpu: the paths of a GPU against a CPU's results, on a machine with one
# make test-consumers: exports read by the data code of the trainers that they are for, installed beside this package
# make bench: the figures of the README, side by side with their peers

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# DeepSpeed and others look at this when they install; nothing is compiled here.
export DS_BUILD_OPS := 0
export HF_HUB_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-slow test-nodes test-gpu test-consumers check bench clean

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/pip install --quiet -c constraints.txt -e ".[demo]"
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: $(VENV)/installed
	$(BIN)/python jobs/demo.py

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy raycurate jobs
	$(BIN)/lint-imports

test: check
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup -m "not slow and not nodes and not gpu and not consumers"

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup -m slow

test-nodes: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m nodes

test-gpu: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m gpu tests/gpu

# The trainers want other versions of what this package needs: theirs lie in front, the rest is found in $(VENV).
CONSUMERS := .venv-consumers
$(CONSUMERS)/installed: $(VENV)/installed-dev tests/consumers/requirements.txt
	$(PYTHON) -m venv $(CONSUMERS)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > "$$($(CONSUMERS)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/base.pth"
	$(CONSUMERS)/bin/pip install --quiet --no-deps -r tests/consumers/requirements.txt
	touch $@

test-consumers: $(CONSUMERS)/installed
	$(CONSUMERS)/bin/python -m pytest -m consumers tests/consumers

bench: $(VENV)/installed-dev
	$(BIN)/python jobs/bench.py

clean:
	rm -rf $(VENV) $(CONSUMERS) demo-run .pytest_cache .mypy_cache .ruff_cache .hypothesis
