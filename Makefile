# `make train` on a fresh machine, `make check` while the code changes, `make test` before a change lands.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NVCC := $(shell command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null)
# If nvidia-smi exists but fails, the machine probably has a GPU with a broken driver. Stop with an
# error instead of installing the CPU packages.
FLAVOUR := $(shell command -v nvidia-smi >/dev/null || { echo cpu; exit; }; \
    said=$$(timeout 30 nvidia-smi -L 2>&1) && echo gpu && exit; \
    case $$said in (*"No devices were found"*) echo cpu;; (*) echo failing;; esac)
ifeq ($(FLAVOUR)$(filter clean,$(MAKECMDGOALS)),failing)
$(error nvidia-smi fails: $(shell timeout 30 nvidia-smi -L 2>&1 | head -n 3). \
    Repair the driver, or name what to install: make FLAVOUR=cpu or FLAVOUR=gpu)
endif

.PHONY: train check test lint chaos chaos-elastic chaos-elastic-hosts chaos-many-workers check-security audit benchmark contenders benchmark-accuracy benchmark-reproducibility check-plan image requirements test-image test-cluster docs horovod horovod-gpu-build clean

train: $(VENV)/installed-$(FLAVOUR)
	$(BIN)/vit train digits

# The tests that start no process: for use while the code changes.
check: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not processes"

test: lint horovod $(if $(NVCC),horovod-gpu-build)
	# Each core begins with one half in order, so that what a file prepares is prepared once, and takes
	# tests from the other when it is done.
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

# The pages of docs/ as a web site in site/; every warning is an error.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Real runs, killed over and over: half an hour, and no part of `make test`. For fewer kills:
# make chaos CHAOS="--kills-single 10 --kills-two-ranks 4"
chaos: $(VENV)/installed-test horovod
	$(BIN)/python -m tests.chaos.chaos $(CHAOS)

# Elastic jobs, disturbed 300 times: two hours. For fewer:
# make chaos-elastic CHAOS="--disturbances 20 --slots 2,3"
chaos-elastic: $(VENV)/installed-test horovod
	$(BIN)/python -m tests.chaos.elastic $(CHAOS)

# Elastic jobs on hosts whose links are cut and that vanish, in network namespaces, as root: half an
# hour. For fewer: make chaos-elastic-hosts CHAOS="--disturbances 10"
chaos-elastic-hosts: $(VENV)/installed-test horovod
	$(BIN)/python -m tests.chaos.elastic_hosts $(CHAOS)

# An elastic job of 32 workers, half of which are killed at once: some minutes, and 12 GiB of memory.
# For fewer workers: make chaos-many-workers CHAOS="--workers 8"
chaos-many-workers: $(VENV)/installed-test horovod
	$(BIN)/python -m tests.chaos.many_workers $(CHAOS)

# Fuzzes every parser of foreign bytes, a minute each, then asks for known vulnerabilities of the
# packages. An hour each: make check-security FUZZ="--seconds 3600"
check-security: $(VENV)/installed-security
	$(BIN)/python -m tests.security.fuzz $(FUZZ)
	$(MAKE) audit

# Needs PyPI itself: a mirror does not have its advisories, and then this fails.
audit: $(VENV)/installed-security
	$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

# Writes BENCHMARKS.md, its picture and its rows; nothing else should run meanwhile.
benchmark: $(VENV)/installed-test horovod
	$(BIN)/python -m benchmarks all

# Other libraries for `python -m benchmarks input`, each in an environment of its own. Pillow-SIMD
# is compiled, and needs the headers of libjpeg-turbo and zlib.
contenders:
	for name in torchvision dali pillow_simd; do \
		$(PYTHON) -m venv .contenders/$$name && \
		.contenders/$$name/bin/pip install --quiet --requirement benchmarks/contenders/$$name.txt || exit; \
	done

# Two times half an hour of training: a recipe of ours and the Keras example, on a folder of images with
# train/<class>/* and test/<class>/*: make benchmark-accuracy DATA=folder [ACCURACY="--minutes 10"]
benchmark-accuracy: $(VENV)/installed-test
	$(BIN)/python -m benchmarks accuracy --data "$(DATA)" $(ACCURACY)

# SHA-256 of what train.deterministic trains on every runtime and number of workers; half an hour.
# With CIFAR-10 as images in a ZIP file, for an epoch: make benchmark-reproducibility REPRODUCIBILITY="--cifar10 FILE"
benchmark-reproducibility: $(VENV)/installed-test horovod
	$(BIN)/python -m benchmarks reproducibility $(REPRODUCIBILITY)

# Workers on hosts behind links of known bandwidth, beside what `vit plan`'s model predicts; as root.
# make check-plan CHECK="--compute waits --workers 2 --mbit 200,1000"
check-plan: $(VENV)/installed-test horovod
	$(BIN)/python -m tests.plan.check_shaped_links $(CHECK)

# By docker, podman or buildah. tools/build_image.sh names the other variables: IMAGE, BASE_IMAGE ...
image:
	FLAVOUR=$(FLAVOUR) tools/build_image.sh

# After a change of setup.cfg or constraints.txt: writes what the image may install, with digests.
requirements:
	PYTHON=$(PYTHON) tools/compile_requirements.sh

# Builds the image for CPUs on a base of its own and runs it as a cluster would: a quarter of an hour,
# and no part of `make test`.
test-image:
	$(PYTHON) -m tests.image.check_image

# End to end on the cluster of KUBECONFIG (its default: kubectl's), in a namespace of its own.
# make test-cluster IMAGE=registry.example.com/vit:1.0 STORAGE_CLASS=nfs
test-cluster: $(VENV)/installed-test
	@test -n "$(IMAGE)" || { echo "make test-cluster IMAGE=... [STORAGE_CLASS=...]" >&2; exit 2; }
	KUBECONFIG="$${KUBECONFIG:-$$HOME/.kube/config}" VIT_TEST_IMAGE="$(IMAGE)" \
		VIT_TEST_STORAGE_CLASS="$(STORAGE_CLASS)" \
		$(BIN)/python -m pytest -v tests/k8s/test_real_cluster.py

horovod: $(VENV)/installed-$(FLAVOUR)
	tools/build_horovod.sh --python $(BIN)/python $(if $(filter gpu,$(FLAVOUR)),--gpu)

# Compiles Horovod for GPUs and installs nothing; where there is a GPU, `horovod` does that.
horovod-gpu-build: horovod
	$(BIN)/pip install --quiet nvidia-nccl-cu12
	tools/build_horovod.sh --python $(BIN)/python --gpu --no-install

clean:
	rm -rf $(VENV) .contenders build *.egg-info .mypy_cache .pytest_cache .ruff_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.11 to 3.13 is needed, and $(PYTHON) is not: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-$(FLAVOUR): $(BIN)/python setup.cfg pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$(FLAVOUR)]'
	touch $@

$(VENV)/installed-security: $(VENV)/installed-test
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$(FLAVOUR),test,security]'
	touch $@

$(VENV)/installed-docs: $(VENV)/installed-$(FLAVOUR)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$(FLAVOUR),docs]'
	touch $@

$(VENV)/installed-test: $(VENV)/installed-$(FLAVOUR)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$(FLAVOUR),test]'
	touch $@
