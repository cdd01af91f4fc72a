"""The ``extraction`` command. Imports are made inside the commands, so that ``--help`` stays fast."""
