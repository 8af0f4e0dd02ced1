# Does a change to GPT-2's attention pay? `make help` says what there is to type.
#
# Targets and help only: every recipe runs a Python module, most of them from scripts/. Settings are theirs to read:
# no value from .config, a defconfig, the environment or the command line is ever expanded here or by a shell. Hence
# `value` for what is read from there, and `override` for what is not to be taken from there. Only MAKEFLAGS and MAKEFILES
# are out of reach: make expands these before it reads this.

ifeq ($(filter output-sync,$(value .FEATURES)),)
$(error GNU make 4.0 or newer is needed, and this is $(value MAKE_VERSION))
endif

override .DEFAULT_GOAL := all
.NOTPARALLEL:
.SUFFIXES:

# make expands these by itself.
override SHELL := /bin/sh
override .SHELLFLAGS := -c
override VPATH :=
override GPATH :=

# make would put the variables of its command line into the environment of recipes, and expand them for it: `$(shell ...)`
# in a name would run. Scripts read them from MAKEFLAGS (harness/configure/kconfig.py) instead.
unexport variable $(foreach variable,$(.VARIABLES),$(if $(filter command,$(origin $(variable))),$(variable)))

# Of which MAKEFLAGS is made.
ifneq ($(origin MAKEOVERRIDES),undefined)
ifneq ($(value MAKEOVERRIDES),$${-*-command-variables-*-})
$(error MAKEOVERRIDES is for make to set, and for nobody else)
endif
endif

override Q := @
ifeq ($(value V),1)
override Q :=
endif

override define newline


endef

# In single quotes for the shell, whatever is in it but the end of a line, which is the end of a command.
override quote = $(if $(findstring $(newline),$1),$(error a line break in '$1'),'$(subst ','\'',$1)')

# PYTHON from the command line or the environment is used as it is. Otherwise there is a .venv.
override ENV :=
ifndef PYTHON
override PYTHON := .venv/bin/python
override ENV := .venv/installed.txt
endif

override RUN := $(Q)$(call quote,$(value PYTHON)) -m

.PHONY: FORCE
FORCE:

##@ Start here
.PHONY: quickstart test help
quickstart: $(ENV) ## Set up, train a small ablation on real text, report: minutes
	$(RUN) scripts.quickstart
test: $(ENV) ## Set up and run the tests
	$(RUN) pytest -n auto
help: ## This text
	@awk -f scripts/help.awk Makefile

##@ Configure
override CONFIGURE := menuconfig nconfig guiconfig oldconfig olddefconfig savedefconfig listnewconfig alldefconfig \
	randconfig list-defconfigs
.PHONY: $(CONFIGURE) list-steps list-sizes
menuconfig: ## Edit .config in a terminal
nconfig: ## The same
guiconfig: ## Edit .config in a window
list-defconfigs: ## List the configurations in defconfigs/
list-steps: ## List the ablation steps in defconfigs/steps/
list-sizes: ## List the sizes of ladders in defconfigs/sizes/
defconfig-%: FORCE $(ENV) ## Take one for .config; also NAME_defconfig
	$(RUN) scripts.kconfig defconfig $(call quote,$*)
%_defconfig: FORCE $(ENV)
	$(RUN) scripts.kconfig defconfig $(call quote,$*)
oldconfig: ## Ask for settings that .config does not have yet
olddefconfig: ## Give them their defaults
listnewconfig: ## List them
savedefconfig: ## Write what differs from the defaults to defconfig
alldefconfig: ## All defaults
randconfig: ## A random .config; KCONFIG_SEED=n repeats one
$(CONFIGURE): $(ENV)
	$(RUN) scripts.kconfig $@
list-steps: $(ENV)
	$(RUN) scripts.list_steps
list-sizes: $(ENV)
	$(RUN) scripts.list_sizes

##@ Train
.PHONY: check estimate all continue status prepare-data
check: ## Dry-run everything that `make` would train, on the CPU
estimate: ## Time a few steps of each arm here: when will it be done?
all: $(ENV) ## Train what is not done yet: what `make` alone does
	$(RUN) scripts.run
continue: $(ENV) ## Go on with the last ablation, whatever .config says now
	$(RUN) scripts.run --continue
status: ## What is done and what is not
prepare-data: ## Prepare the data set of .config

##@ Read the results
.PHONY: plots report inspect compare paper
plots: ## Draw the figures
report: ## Write report.md and report.html, with tables and a verdict
check estimate status prepare-data plots report: $(ENV)
	$(RUN) scripts.$(subst -,_,$@)
inspect: $(ENV) ## Show what the heads of a run of each arm do
	$(RUN) scripts.inspect_attention
compare: $(ENV) ## Two experiments side by side: A=DIR B=DIR [OUT=FILE.md]
	$(RUN) scripts.compare
paper: $(ENV) ## The technical report anew, from results/, and its PDF
	$(RUN) scripts.paper --pdf

##@ Question the method
.PHONY: verify parity profile quality bench convert
verify: $(ENV) ## Are results what they say? Also trains a short run again
	$(RUN) scripts.verify
parity: $(ENV) ## Same weights, gates at rest: is RA v5 its baseline?
	$(RUN) scripts.check_parity
profile: $(ENV) ## Kernels, allocations, memory of RA v5, MLA and baseline
	$(RUN) scripts.profile_kernels
quality: $(ENV) ## Train RA v5 and the baseline in pairs, and judge
	$(RUN) scripts.quick_quality_test
bench: $(ENV) ## Time an attention layer, the loss, and a training step
	$(RUN) scripts.benchmark_attention
	$(RUN) scripts.benchmark_loss
	$(RUN) scripts.benchmark_training
convert: $(ENV) ## Convert a model: IN=gpt2 OUT=ra-v5.pt [TO=hf] [R=4]
	$(RUN) scripts.convert_checkpoint_to_ra_v5

##@ Work on the code
.PHONY: venv lint audit clean mrproper
venv: $(ENV) ## Set up .venv, as the other targets do when they need it
lint: $(ENV) ## Style, types, bandit's rules, and which room may use which
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy
	$(Q)$(call quote,$(value PYTHON)) -c 'from importlinter.cli import lint_imports_command as main; main()'
audit: $(ENV) ## Ask PyPI for known vulnerabilities of the pinned versions
	$(RUN) scripts.audit
clean: ## Remove caches
	$(Q)rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	$(Q)find gpt2 harness scripts tests -name __pycache__ -prune -exec rm -rf {} +
mrproper: clean ## Remove caches, .config and .venv
	$(Q)rm -rf .venv .config .config.old
	@echo "Kept: data and results. Remove them yourself if you mean to."

.venv/installed.txt: constraints.txt
	$(Q)python3 -m scripts.venv

# What has no rule: say which target was meant. Before there is a .venv, with any Python. (`savedefconfig` writes a file
# named defconfig.)
.PHONY: defconfig
defconfig .DEFAULT:
	$(Q)$(if $(ENV),python3,$(call quote,$(value PYTHON))) -m scripts.no_such_target $(call quote,$@)
