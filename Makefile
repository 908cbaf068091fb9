# `make help` lists the commands. Everything runs in .venv, which the first command makes (utils/setup.sh).
SHELL := /bin/sh
BIN := .venv/bin
# A test run leaves no byte code beside the programs that go into an image.
export PYTHONDONTWRITEBYTECODE := 1
# onnxruntime reports its use to its makers unless this is set before it is imported.
export ORT_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help setup labs lab progress site translate new test bench faults hosts check check-container check-strict audit lock screenshots clean clean-aws

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv/ready: requirements.lock utils/setup.sh container/stack/tables/fast.c
	@utils/setup.sh

setup: .venv/ready  ## make .venv ready (the other commands do it by themselves)
	@echo "setup: done, .venv is ready: $$($(BIN)/python --version)"

labs: .venv/ready  ## run the whole workshop on localaws, or LABS="01_build 04_train"; in Spanish: WORKSHOP_LANG=es; executed labs land in build/labs as HTML
	@$(BIN)/python -m workshop run $(LABS)

lab: .venv/ready  ## open JupyterLab on the labs
	@JUPYTER_CONFIG_PATH="utils/lab$${JUPYTER_CONFIG_PATH:+:$$JUPYTER_CONFIG_PATH}" $(BIN)/python -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root)

progress: .venv/ready  ## what you have done of the labs, and what is next
	@$(BIN)/python -m workshop progress

new: .venv/ready  ## start an algorithm of your own: NAME=my_algorithm [LIKE=tabular|image|blank]
	@$(BIN)/python -m workshop.new "$(NAME)" $(if $(LIKE),--like "$(LIKE)")

test: .venv/ready  ## run all tests, two at a time; ARGS=tests/workshop: some of them
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

bench: .venv/ready  ## measure against the sample, peers and the limit, some 25 minutes; QUICK=1: two minutes, no peers
	@$(BIN)/python -m bench $(if $(QUICK),--quick)

faults: .venv/ready  ## measure what large and hostile things cost, some 30 minutes; CASE="large home": those alone
	@$(BIN)/python -m bench.faults $(CASE)

hosts: .venv/ready  ## measure what a training job costs each of 1, 2, 4 and 8 hosts, some 5 minutes
	@$(BIN)/python -m bench.hosts

# Without TRAIN, SERVE or URL it is a folder of container/, off Docker.
check-container: .venv/ready  ## hold a container to SageMaker's contract: ALGORITHM=my_algorithm HYPERPARAMETERS="a=1 b=2", or TRAIN= SERVE= and so on (README)
	@$(BIN)/python -m workshop.contract $(if $(TRAIN)$(SERVE)$(URL),,--algorithm "$(or $(ALGORITHM),decision_trees)") \
		$(if $(TRAIN),--train "$(TRAIN)") $(if $(SERVE),--serve "$(SERVE)") \
		$(if $(URL),--url "$(URL)") $(if $(TRAINING),--training "$(TRAINING)") $(if $(MODEL),--model "$(MODEL)") \
		$(if $(PAYLOAD),--payload "$(PAYLOAD)") $(if $(CONTENT_TYPE),--content-type "$(CONTENT_TYPE)") \
		$(if $(HYPERPARAMETERS),--hyperparameter $(foreach pair,$(HYPERPARAMETERS),'$(pair)')) $(ARGS)

check-strict: .venv/ready  ## hold a container that learns iris as a tree does to our stack's own promises: TRAIN= SERVE=, or URL=
	@$(BIN)/python -m pytest -q --tb=no -rfE $(if $(URL),--base-url "$(URL)") $(if $(TRAIN),--train-command "$(TRAIN)") \
		$(if $(SERVE),--serve-command "$(SERVE)") tests/container/test_contract_serving.py \
		$(if $(URL),,tests/container/test_contract_training.py)

check: .venv/ready  ## look at the style: ruff
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

lock: .venv/ready  ## pin again what pyproject.toml and the algorithms ask for
	@$(BIN)/python utils/uv_pip.py compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade \
		pyproject.toml --output-file requirements.lock
	@$(BIN)/python utils/uv_pip.py compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade \
		utils/site/requirements.txt --output-file utils/site/requirements.lock
	@container/lock.sh

audit: .venv/ready  ## report known weaknesses of what requirements.lock pins (asks the package index; pip-audit)
	@[ -x build/audit/bin/pip-audit ] || { $(BIN)/python -m venv build/audit && build/audit/bin/pip install -qq pip-audit; }
	@build/audit/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip --progress-spinner off

# Sphinx and what it needs stay out of .venv, which every learner makes.
build/site-env/ready: utils/site/requirements.lock | .venv/ready
	@echo "site: packages from utils/site/requirements.lock (once)"
	@$(BIN)/python -m venv --clear --without-pip build/site-env
	@$(BIN)/python utils/uv_pip.py install --quiet --python build/site-env/bin/python --no-deps --require-hashes \
		--compile-bytecode --requirement $< || \
		$(BIN)/python -m pip --python build/site-env/bin/python install -qq --no-deps --require-hashes --requirement $<
	@touch $@

site: build/site-env/ready  ## make a site of the executed labs in build/site (after `make labs`)
	@$(BIN)/python utils/site/build.py

translate: .venv/ready  ## write the labs in other languages from labs/ and utils/languages/, and name what is not translated
	@$(BIN)/python -m workshop.translate

screenshots: .venv/ready  ## walk the labs in a browser and film localaws' page, for README's and the site's pictures (needs chromium)
	@$(BIN)/python -m pytest -q tests/test_jupyterlab.py -k walks --screenshots build/screenshots
	@$(BIN)/python tests/film.py

# A shell without WORKSHOP_TARGET means AWS here: that localaws is empty would say nothing about what costs money.
clean-aws: .venv/ready  ## delete on AWS what the labs made, as lab 99 does: asks first; YES=1: does not; EXPIRED=1: what has expired, of all learners
	@WORKSHOP_TARGET="$${WORKSHOP_TARGET:-aws}" $(BIN)/python -m workshop clean $(if $(YES),--yes) $(if $(EXPIRED),--expired)

clean:  ## stop localaws and delete everything that was made here: .localaws, build, .venv
	@for home in .localaws build/localaws; do \
		[ ! -x $(BIN)/python ] || LOCALAWS_HOME=$$home $(BIN)/python -m localaws down; done
	rm -rf .localaws build .venv .pytest_cache .ruff_cache .hypothesis
