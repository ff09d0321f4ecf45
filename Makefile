# Everything runs in .venv, made when it is missing. PYTHON chooses the interpreter (3.11 to 3.13).
PYTHON ?= python3
BIN := .venv/bin
# bytecode is compiled once, at installation, also where PYTHONDONTWRITEBYTECODE is set
export UV_COMPILE_BYTECODE := 1

.PHONY: quickstart test test-all smoke bench golden faults docs docs-tables lint format lock clean

quickstart: .venv/ready  ## fine-tune a pretrained backbone on photos and show the table
	$(BIN)/peftbench experiment=quickstart

# one thread in each of several processes: threads that share cores with other processes wait for each other;
# bytecode is kept, because tests start processes of their own and each would compile peftbench and its tests anew
TESTS := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal

test: .venv/ready        ## the fast tests
	$(TESTS)

test-all: .venv/ready    ## the slow ones too
	$(TESTS) -m "slow or not slow"

smoke: .venv/ready       ## every method x one backbone of each family x every task, two batches each
	$(BIN)/python scripts/smoke.py

bench: .venv/ready       ## the benchmarks, or TOPIC="side spt" of them; prints the rows of docs/benchmarks.md
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[bench]'
	$(BIN)/python scripts/bench $(TOPIC)

golden: .venv/ready      ## BASE=<commit>: this tree computes what that one does, to the bit; ROWS and EXCEPT are patterns
	@test -n "$(BASE)" || { echo "golden: give the commit to compare with, as in make golden BASE=HEAD~1." >&2; exit 2; }
	OMP_NUM_THREADS=1 $(BIN)/python scripts/golden.py against "$(BASE)" \
	  $(foreach p,$(ROWS),--rows '$(p)') $(foreach p,$(EXCEPT),--except '$(p)')

faults: .venv/ready      ## damaged files, hostile words, kills, full disks (docs/reliability.md): TRIES, SEED, MINUTES
	OMP_NUM_THREADS=1 $(BIN)/python scripts/faults --tries $(or $(TRIES),1000) --seed $(or $(SEED),0) --minutes $(or $(MINUTES),60)

docs: .venv/ready        ## the documentation site, in build/site; a dead link or anchor fails it
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

docs-tables: .venv/ready ## writes the tables of docs/ that are made from the code
	$(BIN)/python scripts/doc_tables.py
	$(BIN)/python scripts/method_pages

lint: .venv/ready
	$(BIN)/ruff check src scripts tests
	$(BIN)/ruff format --check src scripts tests
	$(BIN)/mypy
	$(BIN)/codespell *.md configs docs scripts src

format: .venv/ready
	$(BIN)/ruff check --fix src scripts tests
	$(BIN)/ruff format src scripts tests

.venv/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "peftbench needs Python 3.11 to 3.13; this is %d.%d: make PYTHON=python3.12 …" % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	touch $@

lock:                    ## pins and hashes of everything, for every supported Python
	uv pip compile pyproject.toml --extra dev --universal --generate-hashes --no-annotate --no-header \
	  --python-version 3.11 --quiet --output-file requirements.txt

clean:
	rm -rf .venv
