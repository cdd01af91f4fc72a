"""The operator: from declared ExtractionJobs to pods, and from what the pods say to status.

Data flows ``watch`` → ``store`` → ``plan`` (pure) → ``cluster``. It holds no database credential and opens no
connection to a source; it imports the contract, never the worker.
"""
