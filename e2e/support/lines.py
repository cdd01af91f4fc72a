"""Logs that somebody else still writes."""


def whole_lines(text: str) -> list[str]:
    """Return the lines that have ended; the last one may be half written."""
    return text.split("\n")[:-1]
