"""The operator on a real cluster, a file for each behaviour. A package: else it would shadow the module `operator`."""
