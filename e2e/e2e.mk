# Tests on a real cluster: Docker and kind where there are, e2e/node/kind elsewhere (which needs root; .ci/install-e2e
# installs what it needs on Debian). KEEP=1 keeps the cluster after the tests; E2E_ARGS goes to pytest.
.PHONY: images e2e cluster cluster-delete
CLUSTER ?= extraction
E2E_KUBECONFIG := build/e2e/kubeconfig
E2E_READY := $(VENV)/.ready-e2e

$(E2E_READY): $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS),e2e]'
	@touch $@

images:  ## Build the container images into build/images
	PYTHON=$(PYTHON) images/build

cluster:  ## Raise a cluster, or reuse it; prints its KUBECONFIG
	@mkdir -p $(dir $(E2E_KUBECONFIG))
	$$(e2e/kind-bin) create cluster --name $(CLUSTER) --kubeconfig $(E2E_KUBECONFIG) --wait 2m
	@echo "export KUBECONFIG=$(abspath $(E2E_KUBECONFIG))"

cluster-delete:  ## Delete the cluster
	$$(e2e/kind-bin) delete cluster --name $(CLUSTER) --kubeconfig $(E2E_KUBECONFIG)

e2e: $(E2E_READY) images  ## Run e2e/ on a cluster; KEEP=1 keeps it
	$(BIN)/pytest -c e2e/pytest.ini --cluster-name $(CLUSTER) --kubeconfig $(E2E_KUBECONFIG) \
		$(if $(KEEP),--keep-cluster) e2e $(E2E_ARGS)
