"""The proof: column digests of what was read, decoded and stored, and the server's own sums.

May import ``model``, ``errors``, ``source.types`` and ``sink`` readers. Its evidence goes into the manifest.
"""
