VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2

.PHONY: install demo test check clean

install: $(READY)

$(READY): requirements.lock setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# Train, compare the planners, record a video, and print it all together. A second call goes on
# where an interrupted one stopped.
demo: $(READY)
	if [ -f runs/demo/config.yaml ]; \
		then $(BIN)/telic train resume=runs/demo; \
		else $(BIN)/telic train --config demo; fi
	$(BIN)/telic evaluate run=runs/demo episodes=5
	$(BIN)/telic control run=runs/demo planner=grasp video=true
	$(BIN)/telic report run=runs/demo

test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
