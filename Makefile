# Everything starts from here: `make` alone lists the targets. Needs Linux, Python 3.11 or later and pip.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
FAST := not vllm and not postgres and not slow and not browser and not sandbox
# Files whose many tests, or whose models, take longer together than a quick check may.
LONGER := embedded_engine standard_langchain parity synthesis environments recipe shop simulated readme capture \
	llamaindex_agent llamaindex_capture llamaindex_confirmation select verifiers recorder rewards completion metrics \
	demo estimate evaluation fan_out loop_end_to_end online packing promotion promotion_cli promotion_faults \
	promotion_live served_adapters rollouts rows synthesis_by_model tasks_policy tokens_in_out training_faults \
	training_gradient training_material training_methods trl_contract weights langgraph_server llamaindex_example \
	spool store_shared migrations detached proxy proxy_exactness served_replicas tools retrieval retrieval_service \
	retrieval_frameworks gateway gateway_chat gateway_faults gateway_kill gateway_openapi gateway_orchestrators \
	gateway_runs gateway_select gateway_traces gateway_versions gateway_whole gateway_limits deploy held_out store \
	chat_policy llamaindex_select select_parity routing_world vllm_server proxy_usage gateway_unread embedded_batch \
	rollout_faults weights_faults blocking_tools docs embedded_refusals
# The figures that the README quotes; `estimate_coverage`, `promotion_gate` and `routing_*` take longest.
BENCHMARKS := step_langgraph step_llamaindex capture_langgraph capture_store rollouts_langgraph synthesis_templates \
	packing imported_tasks sandbox_start capture_spool capturing_proxy gateway_streams retrieval estimate_coverage \
	promotion_gate routing_fixed routing_redrawn

.DEFAULT_GOAL := help
.PHONY: help install install-vllm install-system demo test test-fast lint format policy evaluate bench clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 18

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

install: .venv/.installed ## Install the project and what its tests need into .venv

install-vllm: install ## Install vLLM into .venv-vllm: the CPU build where there is no GPU
	$(BIN)/python scripts/install_vllm.py

install-system: install ## Install bubblewrap, Chromium and nginx, where Debian's packages can be installed
	$(BIN)/python scripts/install_system.py

demo: install ## Watch an orchestrator at work, then one that learns from its own runs (ENGINE=vllm: served by vLLM)
	$(BIN)/python -m examples.shop.demo --engine $(or $(ENGINE),embedded)
	$(BIN)/python -m examples.routing.demo --engine $(or $(ENGINE),embedded)

test: install-vllm install-system ## Run all tests, with a real vLLM, PostgreSQL, browser and sandbox
	TOOLORCH_REQUIRE_VLLM=1 $(PYTEST)

test-fast: install ## Run the tests that need no server but their own: under a minute
	$(PYTEST) -m "$(FAST)" -q $(LONGER:%=--ignore=tests/test_%.py)

lint: install ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

policy: install ## Make and train the demo policy from nothing, on the CPU
	$(BIN)/python -m examples.shop.train_policy

evaluate: install ## Say how good the two committed policies are on held-out requests and tasks
	OMP_NUM_THREADS=1 $(BIN)/python -m examples.shop.evaluate_policy
	OMP_NUM_THREADS=1 $(BIN)/python -m examples.tasks.evaluate_policy --count 600 --choices 200

bench: install-vllm ## Run the benchmarks that the README quotes
	for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name || exit 1; done

clean: ## Remove the environments and what tools have left
	rm -rf .venv .venv-vllm .mypy_cache .pytest_cache .ruff_cache .toolorch
