"""The commands of a job's pods: hold, plan, publish, work, clean and check (docs/operator.md has their contract).

``process`` runs one of them to its end: signals, termination message, exit code. ``job`` is what a command is given;
``lead`` are the files between the containers of the lead; the rest is named for what it does.
"""
