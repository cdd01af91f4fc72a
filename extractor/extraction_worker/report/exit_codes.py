"""What exit codes mean, from the errors themselves: ``python -m extraction_worker.report.exit_codes [--check]``.

A page for people, and a module for the operator, which knows no worker.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from extraction_worker import errors
from extraction_worker.errors import ExtractionError, Terminal, Transient

PAGE = Path("docs/exit-codes.md")
MODULE = Path("crds/extraction_contract/exit_codes.py")

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

_MODULE_HEAD = """\
\"\"\"What the exit codes of pods mean, for those who only see the code.

Generated from ``extraction_worker/errors.py`` by ``make generate``.
\"\"\"

EXIT_CODES = {
"""
_MODULE_TAIL = """\
}  # fmt: skip
\"\"\"Reason and meaning of each error, by its exit code.\"\"\"
"""
_WIDEST = 121
"""Characters of a line of code, with its end."""


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
        lines.append(f"| {kind.exit_code} | {kind.reason} | {family} | {_meaning(kind)} |\n")
    return _HEAD + "".join(lines)


def render_module() -> str:
    """Return the module of the contract."""
    lines = []
    for kind in all_errors():
        key, reason = f"    {kind.exit_code}: (", json.dumps(kind.reason)
        meaning = json.dumps(_meaning(kind), ensure_ascii=False)
        line = f"{key}{reason}, {meaning}),\n"
        if len(line) > _WIDEST:
            line = f"{key}\n        {reason},\n        {meaning},\n    ),\n"
        lines.append(line)
    return _MODULE_HEAD + "".join(lines) + _MODULE_TAIL


def _meaning(kind: type[ExtractionError]) -> str:
    return " ".join((kind.__doc__ or "").split()).replace("``", "`")


def main(arguments: list[str]) -> int:
    """Write both, or check that they are current; return an exit code."""
    stale = 0
    for file, text in ((PAGE, render()), (MODULE, render_module())):
        if "--check" not in arguments:
            file.write_text(text)
        elif not file.is_file() or file.read_text() != text:
            sys.stderr.write(f"{file} isn't what {errors.__name__} says: run make generate\n")
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
