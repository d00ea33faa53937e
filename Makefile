# Every target that people and CI use. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV := .venv
GUARD := .venv-guard
PORT ?=
DATA ?=
LABELS ?=
HOST ?=
PARAMS ?=
NAMESPACE ?=
JOBS ?= 2
ARGS ?=
export HOUNSFIELD_GUARD_PYTHON ?= $(CURDIR)/$(GUARD)/bin/python

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo
	@echo '  make run DATA=folder LABELS=labels.csv   the same on your own DICOM; PORT=9000 serves on another port'

$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not on PATH: install Python 3.11, or name it with make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module: on Debian and Ubuntu run apt-get install python3.11-venv"; exit 2; }
	@echo "== main environment ($(VENV)), about 2 minutes"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -c constraints.txt -e '.[dev]'
	@# kubeflow-katib pins protobuf<5 and yet works with 6: tests/unit/test_environment.py imports it.
	$(VENV)/bin/pip install --no-deps kubeflow-katib==0.19.0 kubeflow_katib_api==0.19.0
	@# rapidocr-onnxruntime asks for opencv-python, which would overwrite the files of opencv-python-headless.
	$(VENV)/bin/pip install --no-deps rapidocr-onnxruntime==1.4.4
	@touch $@

$(GUARD)/.installed: guard-requirements.txt constraints-guard.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not on PATH: install Python 3.11, or name it with make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "== guard environment ($(GUARD)), about 2 minutes"
	$(PYTHON) -m venv $(GUARD)
	$(GUARD)/bin/pip install -c constraints-guard.txt -r guard-requirements.txt
	$(GUARD)/bin/pip install --no-deps -e .
	@touch $@

.PHONY: install
install: $(VENV)/.installed $(GUARD)/.installed ## Make both environments

.PHONY: run
run: install ## The whole road on this machine: DICOM in, a promoted canary out, left serving
	@$(VENV)/bin/python -m pipelines.run $(if $(PORT),--port $(PORT)) $(if $(DATA),--data '$(DATA)') $(if $(LABELS),--labels '$(LABELS)') $(ARGS)

.PHONY: up
up: install ## Serve again what the last run promoted
	@$(VENV)/bin/hounsfield up $(if $(PORT),--port $(PORT))

.PHONY: down
down: ## Stop what `make run` left serving
	@if [ -x $(VENV)/bin/hounsfield ]; then $(VENV)/bin/hounsfield down; else echo "nothing to stop"; fi

.PHONY: status
status: install ## What is serving, and with which weights
	@$(VENV)/bin/hounsfield status

.PHONY: test
test: install ## Every test: unit, components, manifests, integration, end to end (JOBS=1: one after the other)
	$(VENV)/bin/python -m pytest -n $(JOBS) --no-loadscope-reorder $(ARGS)

.PHONY: lint
lint: install ## ruff: rules and format
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

.PHONY: check
check: lint compile validate test ## What CI runs

.PHONY: bench-serving
bench-serving: install ## Our predictor beside raw inference, stock KServe, MLServer and BentoML: about half an hour
	@$(VENV)/bin/python -m bench.serving --peers $(ARGS)

.PHONY: bench-deidentification
bench-deidentification: install ## A million actions, pydicom's files and speed, ours beside four other tools: about an hour
	@$(VENV)/bin/python -W ignore -m bench.deidentification --peers $(ARGS)

.PHONY: bench-ingest
bench-ingest: install ## Ingest and preprocess beside the decoder's limit and MONAI; 5,000 damaged files; memory to 50,000 files
	@$(VENV)/bin/python -W ignore -m bench.ingest speed $(ARGS)
	@$(VENV)/bin/python -W ignore -m bench.ingest.mutants
	@$(VENV)/bin/python -W ignore -m bench.ingest memory

.PHONY: fuzz
fuzz: install ## Fuzz the request path and the DICOM path, 5 minutes each; ARGS='--seconds 3600'
	@$(VENV)/bin/pip install -q -c constraints.txt -e '.[fuzz]'
	@$(VENV)/bin/python -m tests.fuzz request $(ARGS)
	@$(VENV)/bin/python -m tests.fuzz dicom $(ARGS)

.PHONY: compile
compile: install ## The pipeline as YAML for the Kubeflow dashboard: build/hounsfield-training.yaml
	@$(VENV)/bin/python -m pipelines.compile --out build

OVERLAYS := $(wildcard manifests/overlays/*)

.PHONY: submit
submit: install ## Run the pipeline on Kubeflow: HOST=address PARAMS=params.yaml (NAMESPACE=team, ARGS='--cron ...')
	@$(VENV)/bin/python -m pipelines.submit --host '$(HOST)' $(if $(PARAMS),--params '$(PARAMS)') $(if $(NAMESPACE),--namespace '$(NAMESPACE)') $(ARGS)

.PHONY: render
render: install ## The manifests of every overlay, rendered into build/
	@mkdir -p build
	@for overlay in $(OVERLAYS); do $(VENV)/bin/kubectl kustomize $$overlay > build/$$(basename $$overlay).yaml && echo build/$$(basename $$overlay).yaml; done

.PHONY: golden
golden: install ## Render every overlay into tests/manifests/golden, so that review sees what a change comes to
	@for overlay in $(OVERLAYS); do $(VENV)/bin/kubectl kustomize $$overlay > tests/manifests/golden/$$(basename $$overlay).yaml; done
	@git status --short tests/manifests/golden

CRDS ?= $(if $(HOUNSFIELD_CRDS),$(HOUNSFIELD_CRDS),../shared/crds)
CHECKOV := build/checkov

$(CHECKOV)/.installed:
	@# An environment of its own: its pins are many and none of ours.
	$(PYTHON) -m venv $(CHECKOV)
	$(CHECKOV)/bin/pip install -q checkov==3.3.30
	@touch $@

.PHONY: validate
validate: install $(CHECKOV)/.installed ## The manifests: schemas (CRDS=folder), pods against Pod Security, NSA/CISA and checkov
	@rm -rf build/pods
	@$(VENV)/bin/hounsfield manifests validate $(OVERLAYS) manifests/cluster/admission katib/experiment.yaml --crds $(CRDS) --pods build/pods
	@$(CHECKOV)/bin/checkov --config-file manifests/.checkov.yaml -d build/pods

# Pin the base by digest: make images BASE=docker.io/library/debian:bookworm-slim@sha256:...
BASE ?= docker.io/library/debian:bookworm-slim
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
BUILDER ?= $(shell docker info >/dev/null 2>&1 && echo docker || { command -v buildah >/dev/null && echo buildah; })
TARGETS ?= train launch serve guard
BUILD_ARGS ?=

.PHONY: images
images: ## The container images, by docker or buildah (TARGETS='serve guard' for some)
	@test -n '$(BUILDER)' || { echo "neither a docker daemon nor buildah is there: apt-get install buildah"; exit 2; }
	@for target in $(TARGETS); do echo "== docker.io/hounsfield/$$target:$(VERSION)"; \
	  $(BUILDER) build $(if $(filter buildah,$(BUILDER)),--format docker) -f images/Dockerfile --target $$target --build-arg BASE=$(BASE) \
	    --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git describe --always --dirty --abbrev=40 --exclude '*') $(BUILD_ARGS) -t docker.io/hounsfield/$$target:$(VERSION) . || exit; done

.PHONY: sbom
sbom: install ## A CycloneDX list of what each image holds: build/sbom/TARGET.cdx.json
	@$(VENV)/bin/python images/sbom.py $(PYTHON) build/sbom

.PHONY: constraints
constraints: install ## Write the installed versions back into constraints*.txt
	@for pair in '$(VENV) constraints.txt' '$(GUARD) constraints-guard.txt'; do set -- $$pair; \
	  { grep '^#' $$2; $$1/bin/pip freeze --exclude-editable | grep -viE '^(torch|triton|nvidia-)' | grep -v '@'; } > $$2.new && mv $$2.new $$2; done

.PHONY: clean
clean: down ## Stop everything and remove what runs made (never your data)
	rm -rf .hounsfield build
