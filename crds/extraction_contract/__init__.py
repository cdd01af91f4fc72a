"""The contract: models of the custom resources, the one source of the CRD YAML and of the local loader."""
