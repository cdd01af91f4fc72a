"""``kubectl extraction``: what people do with jobs in a cluster. The same commands are part of ``extraction``.

Everything goes through the ``kubectl`` of the user, which knows contexts and how to sign in; nothing else of the
operator imports this package. ``requests`` and ``view`` are pure; slow imports are made where they are needed.
"""
