"""What is costly to learn, remembered in Redis, and live progress told through it. Nothing here knows SQL.

Imported by ``source`` (what is remembered of a catalog) and ``stages``. Whatever goes wrong here costs time and
nothing else: no value decides which rows come out before it was compared with the source (``source/remembered.py``).
"""
