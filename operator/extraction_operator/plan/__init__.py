"""Decisions as pure functions: ``(declared, observed) → (status, actions)``. No I/O, no clock, no Kubernetes client.

Imports the contract alone. What it decides goes to :mod:`extraction_operator.cluster`, which carries it out.
"""
