"""What is known: the newest version of each object, and which child belongs to which parent.

Fed by ``watch``, by replies to our own writes, and by the paged LIST (``listing``). None of them comes in order
with the others, so each object's ``resourceVersion`` decides, and what is gone leaves a tombstone.
"""

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from extraction_contract.models import DataSource, ExtractionJob
from extraction_operator.cluster import parse
from extraction_operator.cluster.kinds import DATA_SOURCE, EXTRACTION_JOB, JOB, POD, Kind
from extraction_operator.plan.facts import BEGUN, FINAL
from extraction_operator.plan.values import ChildJob, Key, Pod, Role
from extraction_operator.table import Change, Table

log = logging.getLogger(__name__)

_PARSED = 256
"""ExtractionJobs that are kept as models: those at work are looked at tens of times."""


class Parent(StrEnum):
    """The kinds that are decided about."""

    JOB = "ExtractionJob"
    SOURCE = "DataSource"


class Ref(NamedTuple):
    """An object to decide about."""

    kind: Parent
    key: Key

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"


@dataclass(frozen=True)
class Broken:
    """An object that can't be read."""

    problem: str


@dataclass(frozen=True)
class Brief:
    """What of an ExtractionJob is asked for without looking at the whole.

    The whole is kept as JSON and parsed when it is decided about: five thousand jobs take 10 MB like this, and 85 MB as
    models.
    """

    uid: str
    source: Key
    phase: str
    deleting: bool
    attempt: int
    created: str
    """As the API server writes it, in UTC: ordered like the times."""
    claim: str
    """The claim of a volume sink; empty for others."""
    document: bytes

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self.phase in FINAL

    @property
    def is_begun(self) -> bool:
        """Whether the job has begun and not ended."""
        return self.phase in BEGUN


class Recorder(Protocol):
    """Who is told everything that is news; :class:`extraction_operator.record.recorder.Recorder` in the operator."""

    def job(self, job: parse.Raw, *, gone: bool = False) -> None:
        """Take note of an ExtractionJob as :func:`parse.trim` leaves it, or of its end: then it is the last version."""

    def source(self, source: DataSource, *, gone: bool = False) -> None:
        """Take note of a DataSource, or of its end."""

    def pod(self, owner: str, pod: Pod) -> None:
        """Take note of a pod, also of one that is of no interest to decisions; ``owner`` is the uid of its parent."""


class Store:
    """Everything that is known.

    Parameters
    ----------
    on_job, on_source
        Told what changed about an ExtractionJob or a DataSource.
    on_child
        Told whose child changed.
    on_broken
        Told what can't be read.
    recorder
        Told everything that is news; None where nothing is recorded.
    on_pod
        Told of each version of a pod and the uid of its parent, also of those that nothing is decided by.
    """

    def __init__(
        self, *,
        on_job: Callable[[Change[Brief]], None],
        on_source: Callable[[Change[DataSource]], None],
        on_child: Callable[[Ref], None],
        on_broken: Callable[[Kind, Key, str], None],
        recorder: Recorder | None = None,
        on_pod: Callable[[str, Pod], None] = lambda _owner, _pod: None,
    ) -> None:  # fmt: skip
        self._on_pod = on_pod
        self._on_job = on_job
        self._on_source = on_source
        self._on_child = on_child
        self._on_broken = on_broken
        self._recorder = recorder
        self._jobs: Table[Brief | Broken] = Table()
        self._sources: Table[DataSource | Broken] = Table()
        self._children: Table[ChildJob] = Table()
        self._pods: Table[Pod | None] = Table()
        self._parents: dict[str, Ref] = {}
        """Parents by their uid."""
        self._parsed: OrderedDict[Key, tuple[bytes, ExtractionJob]] = OrderedDict()
        """The models of those that were looked at last, and what they were parsed from."""
        self._open: dict[Key, set[Key]] = {}
        """Jobs that haven't ended, by their source."""

    # Reading -----------------------------------------------------------------------------------------------------

    def job(self, key: Key) -> ExtractionJob | None:
        """Return an ExtractionJob; None where there is none that can be read."""
        found = self._jobs.get(key)
        if not isinstance(found, Brief):
            return None
        known = self._parsed.get(key)
        if known is not None and known[0] is found.document:
            return known[1]
        try:
            return self._keep(key, found.document)
        except parse.UnreadableError as error:
            self._on_broken(EXTRACTION_JOB, key, str(error))
            return None

    def brief(self, key: Key) -> Brief | None:
        """Return the outline of an ExtractionJob; None where there is none that can be read."""
        found = self._jobs.get(key)
        return found if isinstance(found, Brief) else None

    def source(self, key: Key) -> DataSource | None:
        """Return a DataSource; None where there is none that can be read."""
        found = self._sources.get(key)
        return found if isinstance(found, DataSource) else None

    def children(self, uid: str) -> tuple[ChildJob, ...]:
        """Return the Jobs of a parent."""
        return tuple(self._children.owned(uid))

    def pods(self, uid: str) -> tuple[Pod, ...]:
        """Return the pods of a parent, as far as they are of interest."""
        return tuple(pod for pod in self._pods.owned(uid) if pod is not None)

    def leads(self) -> Iterator[ChildJob]:
        """Return the lead Jobs that haven't ended."""
        children = (self._children.get(key) for key in self._children)
        return (job for job in children if job is not None and job.role is Role.LEAD and job.ending is None)

    def reading(self) -> dict[Ref, str]:
        """Return the jobs whose pods read now, each with its attempt as pods name it."""
        briefs = ((key, self.brief(key)) for key in self._jobs)
        return {
            Ref(Parent.JOB, key): f"{brief.uid}-{brief.attempt}"
            for key, brief in briefs
            if brief is not None and brief.phase == "Running"
        }

    def open_jobs(self, source: Key) -> tuple[Key, ...]:
        """Return the jobs of a source that haven't ended."""
        return tuple(sorted(self._open.get(source, ())))

    def refs(self) -> Iterator[Ref]:
        """Return everything to decide about; first the jobs that are under way, because what they hold isn't free."""
        briefs = [(key, brief) for key in self._jobs if (brief := self.brief(key)) is not None]
        briefs.sort(key=lambda item: (not item[1].is_begun, item[1].is_final, item[1].created, item[0]))
        yield from (Ref(Parent.JOB, key) for key, _ in briefs)
        yield from (Ref(Parent.SOURCE, key) for key in self._sources)

    def phases(self) -> Iterator[str]:
        """Return the phase of each job."""
        return (brief.phase or "Pending" for key in self._jobs if (brief := self.brief(key)) is not None)

    def uids(self) -> tuple[list[str], list[str]]:
        """Return the uids of all ExtractionJobs and of all DataSources, also of those that can't be read."""
        jobs, sources = (
            [table.owner(key) for key in table] for table in (self._jobs, self._sources)
        )  # fmt: skip
        return jobs, sources

    def tell(self, recorder: Recorder) -> None:
        """Tell a recorder everything that is there."""
        for key in self._jobs:
            self._record_job(recorder, self._jobs.get(key))
        for key in self._sources:
            if (source := self.source(key)) is not None:
                recorder.source(source)
        for owner in tuple(self._parents):
            for pod in self.pods(owner):
                recorder.pod(owner, pod)

    # Writing -----------------------------------------------------------------------------------------------------

    def apply(self, kind: Kind, raw: parse.Raw, *, deleted: bool = False) -> bool:
        """Merge an object, or its end; return whether it was news."""
        metadata = raw["metadata"]
        key, version = Key(metadata["namespace"], metadata["name"]), str(metadata["resourceVersion"])
        table = self._table(kind)
        if not table.is_news(key, version):
            return False
        if deleted:
            if kind == POD:
                # Its last words often come with its end.
                with contextlib.suppress(parse.UnreadableError):
                    pod, owner = parse.parse_pod(raw), parse.owner_uid(raw)
                    self._on_pod(owner, pod)
                    if self._recorder is not None:
                        self._recorder.pod(owner, pod)
            self._tell(kind, table.remove(key, version))
            return True
        try:
            owner, value = self._parse(kind, raw)
        except parse.UnreadableError as error:
            self._on_broken(kind, key, str(error))
            if kind in {JOB, POD}:
                # Labels like ours on something that isn't: nothing of ours is known by it.
                self._tell(kind, table.remove(key, version))
                return True
            owner, value = metadata["uid"], Broken(str(error))
        self._tell(kind, table.put(key, version, owner, value))
        return True

    def gone(self, kind: Kind, key: Key, version: str) -> None:
        """Take note that an object wasn't there at this version of a LIST, or when it was asked for."""
        table = self._table(kind)
        if table.get(key) is not None or key in table:
            self._tell(kind, table.remove(key, version))

    def ended(self, kind: Kind, key: Key, uid: str) -> None:
        """Take note that a child of this uid is gone, as the answer to a request says, which has no version."""
        table = self._table(kind)
        found = table.get(key)
        if found is not None and found.uid == uid:
            # Later news, if there are any on their way, bring it back until its DELETED comes.
            self._tell(kind, table.remove(key, table.version(key)))

    def absent(self, kind: Kind, listed: Iterable[Key], version: str, namespace: str | None) -> list[Key]:
        """Return the objects that a LIST of this version should have shown, and didn't."""
        there = set(listed)
        return [
            key for key in self._table(kind).older_than(version)
            if key not in there and namespace in {None, key.namespace}
        ]  # fmt: skip

    def _parse(self, kind: Kind, raw: parse.Raw) -> tuple[str, Any]:
        uid = str(raw["metadata"]["uid"])
        if kind == EXTRACTION_JOB:
            own = parse.trim(raw)
            brief = _brief(own)
            if not brief.is_final:
                # Thousands of ended ones are looked at one by one, later: a start doesn't wait for that.
                self._keep(Key(raw["metadata"]["namespace"], raw["metadata"]["name"]), brief.document)
            if self._recorder is not None:
                # Here, where it needn't be parsed again.
                self._recorder.job(own)
            return uid, brief
        if kind == DATA_SOURCE:
            return uid, parse.parse_own(DataSource, parse.as_document(parse.trim(raw)))
        if kind == JOB:
            return parse.owner_uid(raw), parse.parse_child(raw)
        pod = parse.parse_pod(raw)
        if self._recorder is not None:
            self._recorder.pod(parse.owner_uid(raw), pod)
        self._on_pod(parse.owner_uid(raw), pod)
        # Its version is kept, so that an older event doesn't bring back what isn't of interest any more.
        return parse.owner_uid(raw), pod if parse.is_of_interest(pod) else None

    def _keep(self, key: Key, document: bytes) -> ExtractionJob:
        """Parse a job, and keep it for a while; raise what :func:`parse.parse_own` raises."""
        found = parse.parse_own(ExtractionJob, document)
        self._parsed[key] = (document, found)
        self._parsed.move_to_end(key)
        if len(self._parsed) > _PARSED:
            self._parsed.popitem(last=False)
        return found

    def _table(self, kind: Kind) -> Table[Any]:
        tables: dict[Kind, Table[Any]] = {
            EXTRACTION_JOB: self._jobs, DATA_SOURCE: self._sources, JOB: self._children, POD: self._pods,
        }  # fmt: skip
        return tables[kind]

    def _tell(self, kind: Kind, change: Change[Any]) -> None:
        """Keep the indexes, then tell who has to know."""
        if self._recorder is not None:
            self._record(self._recorder, kind, change)
        if kind == EXTRACTION_JOB:
            if change.after is None:
                self._parsed.pop(change.key, None)
            self._index(change.key, change.before, change.after)
            self._name(Ref(Parent.JOB, change.key), change)
            self._on_job(Change(change.key, change.owner, _readable(change.before), _readable(change.after)))
        elif kind == DATA_SOURCE:
            self._name(Ref(Parent.SOURCE, change.key), change)
            self._on_source(Change(change.key, change.owner, _readable(change.before), _readable(change.after)))
        elif change.before != change.after and (parent := self._parents.get(change.owner)):
            # Most versions of a Job or pod differ in nothing that a decision looks at.
            self._on_child(parent)

    def _record(self, recorder: Recorder, kind: Kind, change: Change[Any]) -> None:
        gone = change.after is None
        found = change.before if gone else change.after
        if kind == EXTRACTION_JOB and gone:
            self._record_job(recorder, found, gone=True)
        elif kind == DATA_SOURCE and isinstance(found, DataSource):
            recorder.source(found, gone=gone)

    @staticmethod
    def _record_job(recorder: Recorder, found: Brief | Broken | None, *, gone: bool = False) -> None:
        if isinstance(found, Brief):
            recorder.job(parse.of_document(found.document), gone=gone)

    def _index(self, key: Key, before: Brief | Broken | None, after: Brief | Broken | None) -> None:
        if isinstance(before, Brief) and (jobs := self._open.get(before.source)) is not None:
            jobs.discard(key)
            if not jobs:
                del self._open[before.source]
        if isinstance(after, Brief) and not after.is_final:
            self._open.setdefault(after.source, set()).add(key)

    def _name(self, ref: Ref, change: Change[Any]) -> None:
        if change.after is not None:
            self._parents[change.owner] = ref
        else:
            self._parents.pop(change.owner, None)


def _brief(own: parse.Raw) -> Brief:
    metadata, spec, status = own["metadata"], own["spec"], own.get("status") or {}
    return Brief(
        uid=metadata["uid"],
        source=Key(metadata["namespace"], spec["dataSourceRef"]["name"]),
        phase=status.get("phase") or "",
        deleting="deletionTimestamp" in metadata,
        attempt=status.get("attempt") or 0,
        created=metadata["creationTimestamp"],
        claim=(spec["sink"].get("volume") or {}).get("claimName", ""),
        document=parse.as_document(own),
    )


def _readable(value: Any) -> Any:
    return None if isinstance(value, Broken) else value
