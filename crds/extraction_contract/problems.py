"""What is wrong with manifests, said with file, document and field. Never with a value, which may be a secret."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """Where an object was read from; documents are counted from 1, and 0 is the file as a whole."""

    file: str
    document: int = 0

    def __str__(self) -> str:
        return f"{self.file}, document {self.document}" if self.document else self.file


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Parameters
    ----------
    origin
        File and document.
    path
        camelCase path of the field, e.g. ``spec.columns[2]``; empty for the document itself.
    message
        What must be true, or what to do.
    """

    origin: Origin
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.origin}, {self.path}: {self.message}" if self.path else f"{self.origin}: {self.message}"


class ManifestError(ValueError):
    """Manifests that don't follow the contract or don't fit together; ``problems`` lists all that was found."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)
