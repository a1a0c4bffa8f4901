# cove. `make help` lists the targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
comma := ,
COVE := $(VENV)/bin/cove
APT := apt-get -o DPkg::Lock::Timeout=300 -qq

RUN_PACKAGES := python3-venv gcc libc6-dev libnftables1
TEST_PACKAGES := $(RUN_PACKAGES) git musl-tools busybox-static tmux bubblewrap crun runc skopeo umoci \
	buildah docker-registry docker-compose openssl nftables tshark mmdebstrap debootstrap \
	libseccomp2 clang-format e2fsprogs erofs-utils zsh fish qemu-user-static qemu-system-x86 \
	qemu-system-arm openssh-client dropbear-bin \
	gcc-aarch64-linux-gnu libc6-dev-arm64-cross

# Debian's docker.io starts a daemon that changes the host's network: its command is only driven where it is there.
MUST_RUN := attack,build,cli,clients,examples,images,kernel,native,networks,python,registry,terminal,vm$(if $(shell command -v docker),$(comma)api)

HOST61_PACKAGES := $(filter-out buildah dropbear-bin tshark debootstrap %-arm64-cross gcc-aarch64-linux-gnu,$(TEST_PACKAGES))

.PHONY: help run test test-vms test-walks test-host61 test-swagger test-scale test-testcontainers test-proofs test-docker test-docker-py check golden bench docs clean
.DEFAULT_GOAL := help

help: ## what can be made
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# A first look changes nothing of the host's network, and works where the host can have none.
run: $(VENV)/.installed ## set everything up, then a first command in a machine (a shell, on a terminal)
	@if [ -t 0 ] && [ -t 1 ]; then exec $(COVE) run --rm -it --network none host; \
	else $(COVE) run --rm --network none host sh -c 'echo "hello from $$(hostname), pid $$$$, as $$(id -un), on $$(uname -sr)"'; fi
	@echo; echo "What to try next:"
	@echo "  $(COVE) run --rm -it host bash                      # then: rm -rf /usr/bin  (nothing is lost)"
	@echo "  $(COVE) run --rm --memory 64m --pids-limit 20 host python3 -c 'print(2**100)'"
	@echo "  $(COVE) plan host true                              # every kernel operation that isolates it, and why"

test: $(VENV)/.tested ## install what the tests need, then linters and all tests
	@$(MAKE) --no-print-directory check
	COVE_MUST_RUN=$(MUST_RUN) $(VENV)/bin/python tools/suite.py

test-vms: $(VENV)/.tested ## every scenario of containers, for virtual machines too
	COVE_TEST_VMS=all $(VENV)/bin/python -m pytest tests/kernel tests/attack tests/networks -k vm

test-walks: $(VENV)/.tested ## the daemon killed at every step of every verb, not at every eighth
	COVE_WALK=all $(VENV)/bin/python -m pytest tests -k 'any_step or _crash'

test-proofs: $(VENV)/.tested ## nginx and postgres by Debian's packages, in both kinds of machines (minutes)
	$(VENV)/bin/python -m tests.proofs

test-host61: $(VENV)/.tested ## the core of the tests on Debian's Linux 6.1 with pure cgroup v2, in QEMU
	@$(call need,$(HOST61_PACKAGES))
	$(VENV)/bin/python -m tests.host61

test-docker-py: $(VENV)/.tested ## docker-py's own integration tests, of its repository in DOCKER_PY=DIR
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check paramiko websocket-client
	$(VENV)/bin/python -m tests.docker_py $(DOCKER_PY)

test-swagger: $(VENV)/.tested .cache/schemathesis/bin/schemathesis ## schemathesis over Docker's public swagger, in SWAGGER=FILE
	$(VENV)/bin/python -m tests.swagger $(SWAGGER) .cache/schemathesis/bin/python

test-scale: $(VENV)/.tested ## a thousand machines, 200 clients, 20,000 calls of each kind (an hour; --count for less)
	$(VENV)/bin/python -m tests.scale

# An environment of its own: its plugin for pytest would change how the tests run.
.cache/schemathesis/bin/schemathesis:
	@$(PYTHON) -m venv .cache/schemathesis
	@.cache/schemathesis/bin/python -m pip install -q --disable-pip-version-check 'schemathesis>=4'

test-testcontainers: $(VENV)/.tested .cache/testcontainers/bin/python ## testcontainers for Python, with nginx and postgres, and a VM
	$(VENV)/bin/python -m tests.proofs.of_testcontainers .cache/testcontainers/bin/python

.cache/testcontainers/bin/python:
	@$(PYTHON) -m venv .cache/testcontainers
	@.cache/testcontainers/bin/python -m pip install -q --disable-pip-version-check 'testcontainers>=4.15'

test-docker: $(VENV)/.tested ## Docker's command with cove and with Debian's dockerd beside it, line by line
	$(VENV)/bin/python -m tests.clients.beside

check: $(VENV)/.tested ## linters, types, sizes
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python tools/sizes.py
	clang-format --dry-run --Werror init/*.c init/*.h

golden: $(VENV)/.tested ## write the golden plans anew; read the diff
	$(VENV)/bin/python tools/golden.py

bench: $(VENV)/.installed ## cove beside the peers that are installed here
	$(VENV)/bin/python -m benchmarks
	$(VENV)/bin/python -m benchmarks.python_api
	@echo 'networks: $(VENV)/bin/python -m benchmarks.networks'
	@echo 'forks of virtual machines: $(VENV)/bin/python -m benchmarks.forks --kernels STATE/kernels'

docs: $(VENV)/.installed ## write the generated documents anew
	$(VENV)/bin/python tools/docs.py
	$(VENV)/bin/python -m tests.clients.as_docker docs

clean: ## remove what was built here
	rm -rf $(VENV) .cache build dist cove/_native .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml hatch_build.py tools/build_init.py $(wildcard init/*)
	@$(call need,$(RUN_PACKAGES))
	@[ -x $(VENV)/bin/python ] || $(PYTHON) -m venv $(VENV)
	@echo "installing cove into $(VENV)"
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed Makefile
	@$(call need,$(TEST_PACKAGES))
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[test]'
	@touch $@

# need(packages): install the Debian packages that are missing
define need
missing=; for p in $(1); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
if [ -n "$$missing" ]; then \
	if [ "$$(id -u)" != 0 ]; then echo "make: these packages are missing and only root can install them:$$missing" >&2; exit 1; fi; \
	echo "installing system packages:$$missing"; \
	$(APT) update && DEBIAN_FRONTEND=noninteractive $(APT) install -y --no-install-recommends $$missing >/dev/null; \
fi
endef
