"""A real one-node Kubernetes on a Linux machine, with kind's command line.

The node lives in namespaces of its own (processes, mounts, network, host name), as a kind node lives in a container:
`cli` → `cluster` → `init`, which is process 1 of the node and keeps the components running. Deleting a cluster ends
that process; the kernel then removes everything below it. Standard library only: it runs before any venv exists.
"""
