"""Watching by kopf, and nothing else of kopf: events go to the store.

The only package that imports kopf. It writes nothing and decides nothing; what it can't take in is counted, and the
comparison by LIST makes up for it.
"""
