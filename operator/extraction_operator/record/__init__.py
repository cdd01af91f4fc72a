"""What the operator observes, written to the analytics record: ``rows`` → ``spool`` → ``writer``.

Its schema is ``extraction_record``. The store tells ``recorder`` of everything that is news; once a second the leader
writes it. PostgreSQL may be away for as long as it likes: nothing waits for it, and what isn't written waits in a spool
with a bound.
"""
