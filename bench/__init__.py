"""Benchmarks that anyone can run: against peers, of memory, of the start. No timing is part of a test.

``compare`` is the entry; it starts a server (``server``), runs each contender (``contenders``, ``peers/``) as a
process of its own (``measure``), checks what it wrote (``check``), and reports (``report``, ``plot``).
"""
