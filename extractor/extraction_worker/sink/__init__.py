"""The sink side: file formats, staging, and the one atomic publish, for folders and S3.

May import ``model`` and ``errors`` and the contract. Nothing here knows PostgreSQL.
"""
