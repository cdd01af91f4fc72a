"""What Alembic runs: ``versions``, in ``env``, on the connection that :mod:`extraction_record.migrate` gives it."""
