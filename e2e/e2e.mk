# Tests on a real cluster: Docker and kind where there are, e2e/node/kind elsewhere (which needs root; .ci/install-e2e
# installs what it needs on Debian). Each of E2E_WORKERS has a cluster of its own: CLUSTER, CLUSTER-2 and so on.
# KEEP=1 keeps them after the tests; E2E_ARGS goes to pytest.
.PHONY: images e2e chaos-cluster kueue cluster cluster-delete
CLUSTER ?= extraction
E2E_WORKERS ?= 3
E2E_KUBECONFIG := build/e2e/kubeconfig
E2E_READY := $(VENV)/.ready-e2e

$(E2E_READY): $(READY)
	$(call install,$(EXTRAS)$(COMMA)e2e)
	@touch $@

images:  ## Build the container images into build/images
	PYTHON=$(PYTHON) images/build

cluster:  ## Raise a cluster, or reuse it; prints its KUBECONFIG
	@mkdir -p $(dir $(E2E_KUBECONFIG))
	$$(e2e/kind-bin) create cluster --name $(CLUSTER) --kubeconfig $(E2E_KUBECONFIG) --wait 2m
	@echo "export KUBECONFIG=$(abspath $(E2E_KUBECONFIG))"

cluster-delete:  ## Delete the cluster, and those of more workers
	for number in $$(seq $(E2E_WORKERS)); do \
		suffix=$$([ $$number = 1 ] || echo -$$number); \
		$$(e2e/kind-bin) delete cluster --name $(CLUSTER)$$suffix --kubeconfig $(E2E_KUBECONFIG)$$suffix || exit; \
	done

e2e: $(E2E_READY) images  ## Run e2e/ on a cluster for each of E2E_WORKERS; KEEP=1 keeps them
	$(BIN)/pytest -c e2e/pytest.ini --cluster-name $(CLUSTER) --kubeconfig $(E2E_KUBECONFIG) \
		$(if $(filter-out 1,$(E2E_WORKERS)),--numprocesses $(E2E_WORKERS) --dist loadfile --no-loadscope-reorder) \
		$(if $(KEEP),--keep-cluster) e2e $(E2E_ARGS)

kueue: $(E2E_READY) images  ## Run the tests with the real Kueue, which is built once (minutes); on a node of ours
	EXTRACTION_KUEUE=1 $(BIN)/pytest -c e2e/pytest.ini --cluster-name $(CLUSTER) --kubeconfig $(E2E_KUBECONFIG) \
		$(if $(KEEP),--keep-cluster) e2e/kueue $(E2E_ARGS)

chaos-cluster: $(E2E_READY) images  ## The half of `make chaos` that needs a cluster
	EXTRACTION_CHAOS_SECONDS=$${EXTRACTION_CHAOS_SECONDS:-1200} EXTRACTION_CHAOS_STRIKES=$${EXTRACTION_CHAOS_STRIKES:-200} \
		$(BIN)/pytest -c e2e/pytest.ini --cluster-name $(CLUSTER) --kubeconfig $(E2E_KUBECONFIG) \
		$(if $(KEEP),--keep-cluster) e2e/chaos
