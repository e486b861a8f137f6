# Everything runs in a virtual environment of the clone. Needs python3 (3.11 or newer), make and pip, nothing else.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev,train,app,geo,video
GOLDEN ?= $(or $(SCALEWISE_SHARED),../shared)/golden
DATA ?= $(or $(SCALEWISE_SHARED),../shared)/data

PY := $(VENV)/bin/python
INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt
comma := ,
RUNTIME := $(VENV)/.runtime-installed
AXE_VERSION := 4.14.1
AXE := $(VENV)/package/axe.min.js
ORT_WEB_VERSION := 1.30.0
ORT_WEB := $(VENV)/package/dist
DEV := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))

.PHONY: help demo test coverage slow test-browser parity train-tiny models docs wheel clean
help:
	@echo "make demo     enlarge examples/photo.jpg 3.7 times with half of the work, and show where the work went"
	@echo "make test     lint, format, types and tests (EXTRAS=dev,train,app,geo,video,ray adds the tests of an extra)"
	@echo "make coverage   the tests again, and which lines they ran; fails under 90%"
	@echo "make slow     the tests that take minutes"
	@echo "make test-browser   the web page in a real browser; installs Debian's Chromium if there is none (needs root), axe-core and onnxruntime-web by npm"
	@echo "make parity   compare with the published implementations; GOLDEN=<folder> names the golden vectors"
	@echo "make train-tiny   train and measure all tiny recipes, in any number of calls; DATA=<folder> has train, val, pano360"
	@echo "make models   train our own models for days, going on where it was stopped; DATA=<folder> has train, train2, val"
	@echo "make docs     build the documentation site into site/"
	@echo "make wheel    build the wheel into dist/"
	@echo "make clean    remove everything that make made, the virtual environment included"

$(PY):
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): pyproject.toml constraints.txt | $(PY)
	$(INSTALL) -e .
	@touch $@

# spandrel asks for torchvision, whose build would have to fit torch's, and runs without: no dependencies of its own.
# After this one the plain installation is satisfied too.
$(DEV): pyproject.toml constraints.txt | $(PY)
	$(INSTALL) -e ".[$(EXTRAS)]"
	$(INSTALL) --no-deps einops spandrel
	@touch $@ $(RUNTIME)

demo: $(RUNTIME)
	@mkdir -p demo
	$(VENV)/bin/scalewise upscale examples/photo.jpg -s 3.7 --budget 50% -o demo/photo_x3.7.png \
		--effort-map demo/effort.png --overwrite
	@echo "The picture:         $(CURDIR)/demo/photo_x3.7.png"
	@echo "Where the work went: $(CURDIR)/demo/effort.png"

test: $(DEV)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright --pythonpath $(PY)
	$(PY) -m pytest

# Tests that start processes of their own leave a file each, which `combine` joins.
coverage: $(DEV)
	$(PY) -m coverage erase
	$(PY) -m coverage run -m pytest
	$(PY) -m coverage combine --quiet
	$(PY) -m coverage report

slow: $(DEV)
	$(PY) -m pytest -m slow

test-browser: | $(PY)
	$(INSTALL) -e ".[dev,app,export,video]" playwright
	command -v chromium >/dev/null || apt-get install --yes --quiet chromium
	test -f $(AXE) || { npm pack --silent --pack-destination $(VENV) axe-core@$(AXE_VERSION) && \
		tar -xzf $(VENV)/axe-core-$(AXE_VERSION).tgz -C $(VENV) package/axe.min.js; }
	test -f $(ORT_WEB)/ort.wasm.min.mjs || { npm pack --silent --pack-destination $(VENV) \
		onnxruntime-web@$(ORT_WEB_VERSION) && tar -xzf $(VENV)/onnxruntime-web-$(ORT_WEB_VERSION).tgz -C $(VENV) \
		$(addprefix package/dist/,ort.wasm.min.mjs ort-wasm-simd-threaded.mjs ort-wasm-simd-threaded.wasm); }
	AXE=$(CURDIR)/$(AXE) ORT_WEB=$(CURDIR)/$(ORT_WEB) $(PY) -m pytest -m browser tests/browser

parity: $(DEV)
	$(PY) tests/parity/run.py $(GOLDEN)

train-tiny: $(DEV)
	$(PY) benchmarks/train_tiny.py --data $(DATA)/train --val $(DATA)/val --pano $(DATA)/pano360 --out runs/tiny

models: $(DEV)
	$(VENV)/bin/scalewise train --queue models.toml --data $(DATA)/train --data $(DATA)/train2 --val $(DATA)/val

docs: $(DEV)
	$(PY) -m mkdocs build --quiet --clean --site-dir site
	@echo "The site: $(CURDIR)/site/index.html"

wheel: | $(PY)
	$(PY) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls dist/*.whl

clean:
	rm -rf $(VENV) demo site dist .coverage .coverage.* .pytest_cache .ruff_cache .hypothesis
	find src tests docs -type d -name __pycache__ -prune -exec rm -rf {} +
