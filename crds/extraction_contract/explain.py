"""Validation errors of pydantic → problems with a field path and a message for people."""

import difflib
import re

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from extraction_contract.base import RULES_BROKEN, Contract, model_in
from extraction_contract.documents import join_path
from extraction_contract.problems import Origin, Problem

_CREDENTIAL = re.compile("user|pass|pwd|secret|token|credential|access_?key", re.IGNORECASE)
_MESSAGES = {
    "missing": "is required",
    "string_type": "must be text; put it in quotes if it looks like a number or a yes",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "model_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "tuple_type": "must be a list",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must have {min_length} or more characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have {min_length} or more items",
    "too_long": "must have at most {max_length} items",
    "json_invalid": "contains text that isn't valid Unicode",
}


def explain(error: ValidationError, model: type[Contract], origin: Origin) -> list[Problem]:
    """Return what is wrong, field by field."""
    problems = []
    for details in error.errors(include_url=False, include_input=False):
        path = ""
        for step in details["loc"]:
            path = path if step == "[key]" else join_path(path, step)
        if details["type"] == RULES_BROKEN:
            for name, message in details["ctx"]["broken"]:
                problems.append(Problem(origin, f"{path}.{name}" if name else path, message))
        elif details["type"] == "extra_forbidden":
            problems.append(Problem(origin, path, _unknown_field(details, model)))
        else:
            template = _MESSAGES.get(details["type"])
            message = template.format(**details.get("ctx", {})) if template else details["msg"]
            problems.append(Problem(origin, path, message))
    # A list with a bad item is also reported as too short, because only good items are counted.
    broken = {problem.path.rpartition("[")[0] for problem in problems if problem.path.endswith("]")}
    return [problem for problem in problems if problem.path not in broken]


def nearest(word: str, words: list[str]) -> str | None:
    """Return the one of ``words`` that was probably meant."""
    lowered = {known.lower(): known for known in words}
    close = difflib.get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.7)
    return lowered[close[0]] if close else None


def _unknown_field(details: ErrorDetails, model: type[Contract]) -> str:
    *parents, name = details["loc"]
    holder: type[Contract] | None = model
    for step in parents:
        if isinstance(step, str) and holder is not None:
            aliases = {field.alias or own: field.annotation for own, field in holder.model_fields.items()}
            holder = model_in(aliases.get(step))
    known = [field.alias or own for own, field in holder.model_fields.items()] if holder else []
    meant = nearest(str(name), known)
    if meant is not None:
        return f"unknown field; did you mean {meant}?"
    if _CREDENTIAL.search(str(name)):
        return "credentials don't belong here: put them into a Secret and name it in credentialsSecretRef"
    return f"unknown field; there are {', '.join(known)}" if known else "unknown field"
