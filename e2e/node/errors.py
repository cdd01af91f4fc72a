"""What goes wrong, said to the person who typed the command."""


class NodeError(Exception):
    """A failure whose message tells what to do; the command line prints it and ends with code 1."""
