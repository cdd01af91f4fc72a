"""The source side: sessions, the snapshot lease, introspection, SQL checks, chunk planning and reading.

May import ``model`` and ``errors`` and the contract. What it reads goes to ``stream`` as Arrow record batches.
"""
