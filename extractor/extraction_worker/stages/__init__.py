"""The four stages of a job, hold → plan → work → publish, as functions that pods and local mode share.

May import every package beside it but ``cli``. ``local`` runs all four in one process.
"""
