"""What a pod is told by environment variables, parsed once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from extraction_worker.errors import InvalidManifest
from extraction_worker.model import Consistency

POD_NAME = "EXTRACTION_POD_NAME"
INDEX = "JOB_COMPLETION_INDEX"


@dataclass(frozen=True)
class Environment:
    """What every pod of a job knows."""

    run_id: str
    """``UID-ATTEMPT``; keys staging."""
    pod_uid: str
    pod_name: str
    consistency: Consistency
    """What this attempt gives: less than declared after ``onLoss: Degrade``."""
    pool: int
    """Connections of this pod, and threads that read."""
    parallelism: int | None
    """Worker pods at the same time, where the pod was told."""
    bundles: int | None
    """Into how many bundles the plan is divided, where that is decided already."""
    killed: int
    """Leads of earlier attempts that were killed for their memory."""

    @classmethod
    def parse(cls, variables: Mapping[str, str]) -> Self:
        """Parse the variables.

        Raises
        ------
        InvalidManifest
            One is missing or isn't what it should be; it is named.
        """
        consistency = _text(variables, "EXTRACTION_CONSISTENCY")
        if consistency not in list(Consistency):
            raise _wrong("EXTRACTION_CONSISTENCY", f"must be one of {', '.join(Consistency)}")
        return cls(
            run_id=_text(variables, "EXTRACTION_RUN_ID"),
            pod_uid=_text(variables, "EXTRACTION_POD_UID"),
            pod_name=_text(variables, POD_NAME),
            consistency=Consistency(consistency),
            pool=_number(variables, "EXTRACTION_POOL", least=1),
            parallelism=_optional(variables, "EXTRACTION_PARALLELISM"),
            bundles=_optional(variables, "EXTRACTION_BUNDLES"),
            killed=_optional(variables, "EXTRACTION_KILLED") or 0,
        )


@dataclass(frozen=True)
class BundleEnvironment:
    """Which bundle of which plan a worker works."""

    bundle: int
    bundles: int
    plan_digest: str

    @classmethod
    def parse(cls, variables: Mapping[str, str]) -> Self:
        """Parse the variables; raises InvalidManifest, which names the variable."""
        bundles = _number(variables, "EXTRACTION_BUNDLES", least=1)
        bundle = _number(variables, INDEX, least=0)
        if bundle >= bundles:
            raise _wrong(INDEX, f"must be less than EXTRACTION_BUNDLES, which is {bundles}")
        return cls(bundle, bundles, _text(variables, "EXTRACTION_PLAN_DIGEST"))


def _text(variables: Mapping[str, str], name: str) -> str:
    value = variables.get(name, "")
    if not value:
        raise _wrong(name, "must be set")
    return value


def _number(variables: Mapping[str, str], name: str, *, least: int) -> int:
    text = _text(variables, name)
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= least):
        raise _wrong(name, f"must be a whole number from {least}")
    return int(text)


def _optional(variables: Mapping[str, str], name: str) -> int | None:
    return _number(variables, name, least=1) if variables.get(name) else None


def _wrong(name: str, what: str) -> InvalidManifest:
    return InvalidManifest(f"The environment variable {name} {what}.", hint="The operator sets it: it made a bad pod.")
