"""The analytics record in PostgreSQL: its schema and migrations, its partitions, and how it is read.

``extraction_operator.record`` writes it; ``extraction record`` and ``extraction history`` (``commands``) are part of
both command lines, so this imports neither the operator nor the worker.
"""
