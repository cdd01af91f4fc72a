"""docs/exit-codes.md from the errors themselves: ``python -m extraction_worker.report.exit_codes [--check]``."""

import sys
from collections.abc import Iterator
from pathlib import Path

from extraction_worker import errors
from extraction_worker.errors import ExtractionError, Terminal, Transient

PAGE = Path("docs/exit-codes.md")

_HEAD = """\
# Exit codes

`extraction` ends with one of these. The reasons are those of conditions and events, their snake-case forms those of
metric labels. *Transient* errors were retried before they ended the command; running it again later may help.
*Terminal* ones need somebody to change something first. This page is generated from
`extraction_worker/errors.py` by `make generate`.

| code | reason | family | meaning |
|---|---|---|---|
| 0 | | | Everything was published and verified, or the check found nothing wrong. |
| 1 | InternalError | | Something unexpected: a bug. `EXTRACTION_DEBUG=1` shows where. |
| 2 | | | The command line can't be understood. |
"""


def _classes(base: type[ExtractionError]) -> Iterator[type[ExtractionError]]:
    for kind in base.__subclasses__():
        if "reason" in vars(kind):
            yield kind
        yield from _classes(kind)


def all_errors() -> tuple[type[ExtractionError], ...]:
    """Return every error with a reason of its own, by exit code."""
    return tuple(sorted(_classes(ExtractionError), key=lambda kind: kind.exit_code))


def render() -> str:
    """Return the page."""
    lines = []
    for kind in all_errors():
        family = "terminal" if issubclass(kind, Terminal) else "transient" if issubclass(kind, Transient) else ""
        meaning = " ".join((kind.__doc__ or "").split())
        lines.append(f"| {kind.exit_code} | {kind.reason} | {family} | {meaning.replace('``', '`')} |\n")
    return _HEAD + "".join(lines)


def main(arguments: list[str]) -> int:
    """Write the page, or check that it is current; return an exit code."""
    page = render()
    if "--check" not in arguments:
        PAGE.write_text(page)
        return 0
    if not PAGE.is_file() or PAGE.read_text() != page:
        sys.stderr.write(f"{PAGE} isn't what {errors.__name__} says: run make generate\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
