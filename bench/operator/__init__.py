"""Benchmarks of the operator: ``python -m bench.operator latency|pairs|standing`` and ``… stages``.

The first three need no cluster and no root: ``plane`` raises a control plane with pretended nodes on loopback, for this
process alone, and ends it. ``stages`` times one small job on a real cluster that a kubeconfig names. ``audit`` reads
what was written by whom, ``report`` prints and saves. Imports the tests' API server (``e2e.support``); nothing imports
this.
"""
