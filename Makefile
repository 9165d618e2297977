# The two commands of the README are `make demo` and `make test`; each sets up what it needs.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
PROTOS := spec jobs datasets models gates
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test check lint types contracts unit fuzz proto tui bench walkthrough learning clean

$(VENV)/.run: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,bitsandbytes,gguf,math,tensorboard,mlflow]'
	touch $(VENV)/.run $@

demo: $(VENV)/.run  ## base model -> IFT -> five suites -> gate -> alias, over the real service
	$(BIN)/posttrain demo --home .demo

test: check

check: lint types contracts unit  ## what CI runs

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy cannot follow an editable install's finder: give it the packages under their import name.
types: $(VENV)/.dev
	rm -rf .ns && mkdir -p .ns/posttrain
	for package in engine evals registry service tui; do ln -s ../../$$package .ns/posttrain/$$package; done
	MYPYPATH=.ns $(BIN)/mypy .ns/posttrain

contracts: $(VENV)/.dev
	$(BIN)/lint-imports

# One thread a process: two that share two cores with another test wait for each other most of the time.
unit: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

fuzz: $(VENV)/.dev  ## the property tests on new random cases
	$(BIN)/python -m pytest --hypothesis-profile=fuzz -m hypothesis

proto: $(VENV)/.dev  ## writes the generated protocol code; a test fails when it is stale
	mkdir -p build/proto
	$(BIN)/python -m grpc_tools.protoc -Iposttrain/service/proto=service/proto \
		--python_out=build/proto --pyi_out=build/proto --grpc_python_out=build/proto \
		$(PROTOS:%=posttrain/service/proto/%.proto)
	cp build/proto/posttrain/service/proto/*_pb2*.py* service/proto/

tui: $(VENV)/.run  ## the terminal UI on the demo's data folder (starts a server if none runs)
	$(BIN)/posttrain tui --home .demo --serve

bench: $(VENV)/.dev  ## training steps against TRL's: a quarter of an hour, on an idle machine (docs/benchmarks.md)
	mkdir -p build
	$(BIN)/python -m benchmarks --json build/benchmarks.json

walkthrough: $(VENV)/.dev  ## the same way on SmolLM2-135M-Instruct (docs/walkthrough-smollm2.md)
	bash examples/smollm2/run.sh

learning: $(VENV)/.run  ## five seeds of IFT, DPO, tool use and a reward model, judged by the gate (docs/learning.md)
	$(BIN)/python examples/preferences/run.py --home .learning

clean:
	rm -rf build .ns .mypy_cache .ruff_cache .pytest_cache
