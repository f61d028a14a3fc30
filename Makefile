# Two commands for a fresh machine: `make demo` runs the main job, `make test` passes the tests.
# Both install all they need: Python packages into .venv, and, once, a few system packages.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: browser demo test lint bench coverage android setup system clean

demo: setup system
	$(BIN)/python examples/demo.py

test: setup system browser lint
	$(BIN)/python -m pytest tests -n 2 --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Measured figures; not part of the tests because timings belong to a machine.
# engines: ten networks against five engines (half an hour). With the same packages, each from benchmarks/ by itself:
# accuracy: against PyTorch on photographs; exits: what an early exit costs; scaling: time against work (an hour);
# layers: where the time goes; memory; instructions and loops: on ARM, counted under the emulator.
bench: setup
	$(BIN)/python -m pip install -q -e '.[bench]'
	$(BIN)/python benchmarks/engines.py

# All CNN classifiers of torchvision through the whole path on two targets, one of them emulated (hours; goes on where it was stopped).
coverage: setup system
	$(BIN)/python benchmarks/coverage.py

# The Android example as far as it goes without Android: needs a JDK and cmake, and installs them.
android: demo
	$(BIN)/python -m pip install -q cmake
	@command -v javac >/dev/null || { echo "installing default-jdk-headless"; $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq default-jdk-headless >/dev/null; }
	PATH="$(CURDIR)/$(BIN):$$PATH" PERSE_ANDROID=1 $(BIN)/python -m pytest -s tests/android tests/test_android.py

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV) 2>/dev/null || \
	  { rm -rf $(VENV); $(PYTHON) -m pip install -q --user virtualenv 2>/dev/null || $(PYTHON) -m pip install -q --user --break-system-packages virtualenv; \
	    $(PYTHON) -m virtualenv -q $(VENV); }
	$(BIN)/python -m pip install -q -e '.[dev]'
	touch $@

# qemu runs the ARM executables; gcc builds the runtime's tests with sanitizers; ssh devices are tested against an sshd.
system:
	@missing=""; \
	command -v qemu-aarch64-static >/dev/null && command -v qemu-arm-static >/dev/null || missing="$$missing qemu-user-static"; \
	command -v gcc >/dev/null || missing="$$missing gcc libc6-dev"; \
	PATH="$$PATH:/usr/sbin" command -v sshd >/dev/null || missing="$$missing openssh-server"; \
	command -v ssh >/dev/null || missing="$$missing openssh-client"; \
	[ -z "$$missing" ] || { echo "installing$$missing"; $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq $$missing >/dev/null; }

# Pages are tested in Chromium. Ubuntu's package of that name is a snap: there, Chrome or PERSE_CHROMIUM is used if it is there.
browser:
	@grep -q '^ID=debian' /etc/os-release 2>/dev/null && ! command -v chromium google-chrome >/dev/null || exit 0; \
	  echo "installing chromium"; $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends chromium fonts-liberation >/dev/null

clean:
	rm -rf $(VENV) demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
