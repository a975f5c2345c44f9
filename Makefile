# The workspace. `make` alone shows what there is; `make demo` and `make test` are all a newcomer types.

# The one place where torch is pinned. For the small CPU build, name the index of CPU wheels that
# PyTorch's installation page gives:  make install TORCH="torch==2.13.0 --index-url URL"
TORCH ?= torch==2.13.0
PYTHON ?= python3

PORTRAIT ?= iris
SPEECH ?= examples/assets/speech.wav
PRESET ?= toon
DEMO ?= out/demo

VENV := .venv
BIN := $(VENV)/bin
PACKAGES := packages/af-core packages/af-audio[published] packages/af-train[lora,report,sync,tensorboard,toon] packages/af-runtime[otel,published,web]
MANIFESTS := pyproject.toml $(wildcard packages/*/pyproject.toml)

# Stamps make repeated calls instant. The name of torch's holds its version, so another TORCH installs.
TORCH_STAMP := $(VENV)/.torch-$(shell printf '%s' '$(TORCH)' | cksum | cut -d ' ' -f 1)
STAMP := $(VENV)/.installed

PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help install demo test check format train-toon clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  PYTHON=python3.12, TORCH="torch==2.13.0 ...", PORTRAIT=, SPEECH=, PRESET= change what is used.'

install: $(STAMP)  ## create .venv with torch, the four packages (editable) and the tools of a developer

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo '$(PYTHON) is older than 3.11; name another: make install PYTHON=python3.11'; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Torch goes first: a package that asks for torch then takes what is here and pulls no CUDA build.
$(TORCH_STAMP): | $(BIN)/python
	$(PIP) install $(TORCH)
	@rm -f $(VENV)/.torch-* $(STAMP) && touch $@

$(STAMP): $(TORCH_STAMP) $(MANIFESTS)
	@$(BIN)/python -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"], sep="\n")' \
		> $(VENV)/dev.txt
	$(PIP) install --requirement $(VENV)/dev.txt
	$(PIP) install --no-build-isolation $(foreach package,$(PACKAGES),--editable '$(package)')
	@touch $@

demo: install  ## make a talking clip: out/demo.mp4, and out/demo.png to see it at a glance
	@mkdir -p $(dir $(DEMO))
	$(BIN)/af-runtime generate $(PORTRAIT) $(SPEECH) --output $(DEMO).mp4 --contact-sheet $(DEMO).png --preset $(PRESET)
	@echo
	@echo 'video:         $(abspath $(DEMO).mp4)'
	@echo 'contact sheet: $(abspath $(DEMO).png)'

test: install  ## run all tests
	$(BIN)/python -m pytest --quiet

check: install  ## lint, format, types, import contracts, exported names, docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest --quiet -m 'not slow' tests/house tests/core/test_plugins_doc.py

format: install  ## sort imports and format everything
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

# On a CPU, the page faults of fresh tensors cost more than the arithmetic: keep freed memory, and
# let threads sleep while they wait.
train-toon: export OMP_WAIT_POLICY = PASSIVE
train-toon: export MALLOC_MMAP_MAX_ = 0
train-toon: export MALLOC_TRIM_THRESHOLD_ = 17179869184
train-toon: install  ## train the embedded avatar from nothing into runs/toon; goes on where it was stopped
	$(BIN)/af-train run toon --directory runs/toon

clean:  ## remove .venv, out and caches; trained weights in runs stay
	rm -rf $(VENV) out .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find packages examples tests -name __pycache__ -type d -prune -exec rm -rf {} +
