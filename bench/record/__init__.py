"""Benchmarks of the analytics record: ``python -m bench.record queries|writes``.

``queries`` asks a generated history with and without each index, in turns; ``writes`` flushes changes as the operator
does, and one transaction for each change beside it. Both start a PostgreSQL of their own, as durable as a real one. The
history is that of the tests (``tests.support.history``); nothing imports this.
"""
