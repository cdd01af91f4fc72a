"""Children and finalizers: the actions of a decision that are writes, each of them harmless when it is repeated."""

from collections.abc import Callable
from typing import Any

from extraction_operator.cluster.client import Api
from extraction_operator.cluster.errors import ApiError, ForeignObjectError
from extraction_operator.cluster.kinds import JOB, Kind
from extraction_operator.cluster.parse import owner_uid
from extraction_operator.plan.values import FINALIZER, CreateJob, DeleteJob, Key, ScaleJob

Merge = Callable[[Kind, dict[str, Any]], object]
"""Takes what a write returned into the store."""
Gone = Callable[[Kind, Key, str], object]
"""Told what isn't there any more: the object of that kind, name and uid."""


class Children:
    """Carries out what is decided about Jobs.

    Every method may raise ``ApiError``, ``UnreachableError`` or ``NotLeaderError``: the key is then tried again.
    """

    def __init__(self, api: Api, merge: Merge, gone: Gone) -> None:
        self._api = api
        self._merge = merge
        self._gone = gone

    async def create(self, namespace: str, owner: str, action: CreateJob) -> None:
        """Create a Job.

        That it is there already is success, if its label says that it is the owner's: an answer was lost, or the store
        didn't know it yet.

        Raises
        ------
        ForeignObjectError
            Somebody else's Job has this name.
        """
        try:
            made = await self._api.create(JOB, namespace, action.manifest)
        except ApiError as error:
            if not (error.is_conflict and error.reason == "AlreadyExists"):
                raise
            made = await self._api.get(JOB, namespace, action.name)
            if owner_uid(made) != owner:
                raise ForeignObjectError(
                    f"Job {namespace}/{action.name} isn't ours, and has the name that we need: delete it."
                ) from None
        self._merge(JOB, made)

    async def delete(self, namespace: str, action: DeleteJob) -> None:
        """Delete a Job and its pods; that it is gone, or another one by now, is success."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            # The default of Jobs orphans their pods. Background would let a Job go before them, and leave nobody to ask
            # whether they still run.
            "propagationPolicy": "Foreground",
            "preconditions": {"uid": action.uid},
        }
        try:
            answer = await self._api.delete(JOB, namespace, action.name, options)
        except ApiError as error:
            if not (error.is_gone or error.is_conflict):
                raise
            # A conflict is about the uid: this one is gone, and another has its name.
            answer = {}
        if answer.get("kind") == "Job":
            # It is held by finalizers.
            self._merge(JOB, answer)
        else:
            # A Status without a version. Until the watch tells, each decision would delete it again.
            self._gone(JOB, Key(namespace, action.name), action.uid)

    async def scale(self, namespace: str, action: ScaleJob) -> None:
        """Change the parallelism of a Job, or suspend or resume it; that it is gone is no error."""
        spec = {"parallelism": action.parallelism, "suspend": action.suspend}
        patch = {
            # A uid in a patch is a precondition: the answer is 409 where it differs.
            "metadata": {"uid": action.uid},
            "spec": {field: value for field, value in spec.items() if value is not None},
        }
        try:
            self._merge(JOB, await self._api.merge(JOB, namespace, action.name, patch))
        except ApiError as error:
            if not (error.is_gone or error.is_conflict):
                raise

    async def set_finalizer(
        self, kind: Kind, key: Key, *, uid: str, version: str, finalizers: tuple[str, ...], present: bool
    ) -> None:
        """Put our finalizer on an object, or take it off.

        Parameters
        ----------
        version
            The ``resourceVersion`` that ``finalizers`` is of: others have finalizers in the same list, so only this
            version may be changed.
        """
        wanted = [*(item for item in finalizers if item != FINALIZER), *([FINALIZER] if present else [])]
        if (FINALIZER in finalizers) == present:
            return
        patch = {"metadata": {"uid": uid, "resourceVersion": version, "finalizers": wanted}}
        try:
            self._merge(kind, await self._api.merge(kind, key.namespace, key.name, patch))
        except ApiError as error:
            if not error.is_gone:
                raise
