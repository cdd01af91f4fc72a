"""Our reader of ``COPY … (FORMAT binary)``: C code that fetches from libpq and fills Arrow's buffers.

Only :mod:`extraction_worker.source.session` reads by it. Batches go on to :mod:`extraction_worker.stream.convert`.
What the C files do and take is in ``pgcopy.h``; ``hatch_build.py`` compiles them.
"""
