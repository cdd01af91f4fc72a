"""The newest version wins, whatever the order in which it is told."""

import random
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extraction_operator.cluster.kinds import DATA_SOURCE, EXTRACTION_JOB, JOB, POD
from extraction_operator.plan.values import Key
from extraction_operator.store import Parent, Ref, Store
from extraction_operator.table import Table, is_newer
from support.objects import child, data_source, extraction_job, pod

ORDERS = Key("default", "orders")
SHOP = Key("default", "shop")


class Told:
    """A store, and what it told."""

    def __init__(self) -> None:
        self.jobs: list[tuple[str | None, str | None]] = []
        self.sources: list[Key] = []
        self.parents: list[Ref] = []
        self.broken: list[str] = []
        self.store = Store(
            on_job=lambda change: self.jobs.append(
                (change.before and change.before.phase, change.after and change.after.phase)
            ),
            on_source=lambda change: self.sources.append(change.key),
            on_child=self.parents.append,
            on_broken=lambda kind, key, problem: self.broken.append(f"{kind} {key}"),
        )


@pytest.mark.parametrize(
    ("version", "known", "newer"),
    [("10", "9", True), ("9", "10", False), ("10", "10", False), ("b", "a", True), ("a", "a", False), ("1", "a", True)],
)
def test_versions_are_compared_as_numbers_where_they_are_numbers(version, known, newer):
    assert is_newer(version, known) is newer


def test_a_job_is_kept_and_told():
    told = Told()
    assert told.store.apply(EXTRACTION_JOB, extraction_job(version=5, phase="Running"))
    assert told.store.job(ORDERS).spec.table == "public.orders"
    brief = told.store.brief(ORDERS)
    assert (brief.uid, brief.source, brief.is_begun, brief.is_final, brief.claim) == (
        "uid-of-orders",
        SHOP,
        True,
        False,
        "",
    )
    assert told.jobs == [(None, "Running")]


def test_an_older_version_and_the_same_again_change_nothing():
    told = Told()
    told.store.apply(EXTRACTION_JOB, extraction_job(version=5, phase="Running"))
    assert not told.store.apply(EXTRACTION_JOB, extraction_job(version=4, phase="Planning"))
    assert not told.store.apply(EXTRACTION_JOB, extraction_job(version=5, phase="Running"))
    assert not told.store.apply(EXTRACTION_JOB, extraction_job(version=4), deleted=True)
    assert told.store.brief(ORDERS).phase == "Running"
    assert len(told.jobs) == 1


def test_a_late_event_doesnt_bring_back_what_is_gone():
    told = Told()
    told.store.apply(EXTRACTION_JOB, extraction_job(version=5))
    told.store.apply(EXTRACTION_JOB, extraction_job(version=8), deleted=True)
    assert not told.store.apply(EXTRACTION_JOB, extraction_job(version=7))
    assert told.store.job(ORDERS) is None
    assert told.store.apply(EXTRACTION_JOB, extraction_job(version=9, uid="another"))
    assert told.store.job(ORDERS).metadata.uid == "another"


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_any_order_of_the_same_news_ends_the_same(order):
    news = [
        (extraction_job(version=1), False), (extraction_job(version=3, phase="Running"), False),
        (extraction_job(version=4), True), (extraction_job(version=6, uid="new", phase="Pending"), False),
    ]  # fmt: skip
    told = Told()
    for index in order:
        raw, deleted = news[index]
        told.store.apply(EXTRACTION_JOB, raw, deleted=deleted)
    assert told.store.brief(ORDERS).uid == "new"
    assert told.store.open_jobs(SHOP) == (ORDERS,)


@given(st.permutations(range(1, 9)), st.sets(st.integers(1, 8)))
def test_the_newest_wins_always(order, deletions):
    table: Table[int] = Table()
    key = Key("a", "b")
    for version in order:
        if not table.is_news(key, str(version)):
            continue
        if version in deletions:
            table.remove(key, str(version))
        else:
            table.put(key, str(version), "owner", version)
    expected = None if 8 in deletions else 8
    assert table.get(key) == expected
    assert list(table.owned("owner")) == ([8] if expected else [])
    assert len(table) == (expected is not None)


def test_a_childs_news_are_told_to_its_parent():
    told = Told()
    told.store.apply(JOB, child(version=2))
    assert told.parents == []
    told.store.apply(EXTRACTION_JOB, extraction_job(version=1))
    assert [found.name for found in told.store.children("uid-of-orders")] == ["orders-lead-1"]
    told.store.apply(POD, pod(version=3))
    told.store.apply(JOB, child(version=4), deleted=True)
    assert told.parents == [Ref(Parent.JOB, ORDERS)] * 2
    assert told.store.children("uid-of-orders") == ()
    assert [found.name for found in told.store.pods("uid-of-orders")] == ["orders-lead-1-x"]


def test_a_child_of_an_object_that_is_gone_is_told_to_nobody():
    told = Told()
    told.store.apply(EXTRACTION_JOB, extraction_job(version=1))
    told.store.apply(EXTRACTION_JOB, extraction_job(version=2), deleted=True)
    told.store.apply(JOB, child(version=3))
    assert told.parents == []


def test_worker_pods_that_run_are_remembered_only_by_their_version():
    told = Told()
    told.store.apply(EXTRACTION_JOB, extraction_job(version=1))
    told.store.apply(POD, pod(version=2, role="work", phase="Running"))
    assert told.parents == []
    told.store.apply(POD, pod(version=3, role="work", phase="Failed"))
    assert len(told.parents) == 1
    assert len(told.store.pods("uid-of-orders")) == 1
    told.store.apply(POD, pod(version=5, role="work", phase="Running"))
    assert not told.store.apply(POD, pod(version=4, role="work", phase="Pending"))
    assert told.store.pods("uid-of-orders") == ()


def test_what_cant_be_read_is_told_and_isnt_there():
    told = Told()
    for kind, raw in ((EXTRACTION_JOB, extraction_job(version=2)), (DATA_SOURCE, data_source(version=2))):
        told.store.apply(kind, raw | {"spec": raw["spec"] | {"invented": 1}})
    assert told.broken == ["ExtractionJob default/orders", "DataSource default/shop"]
    assert (told.store.job(ORDERS), told.store.brief(ORDERS), told.store.source(SHOP)) == (None, None, None)
    assert told.jobs == [(None, None)]
    told.store.apply(EXTRACTION_JOB, extraction_job(version=3, phase="Running"))
    assert told.store.brief(ORDERS).phase == "Running"


def test_children_that_cant_be_read_arent_ours():
    told = Told()
    told.store.apply(EXTRACTION_JOB, extraction_job(version=1))
    raw = child(version=2)
    raw["metadata"]["labels"]["extraction-operator.io/role"] = "invented"
    told.store.apply(JOB, raw)
    assert told.broken == ["Job default/orders-lead-1"]
    assert told.store.children("uid-of-orders") == ()


def test_a_source_knows_its_jobs_that_havent_ended():
    told = Told()
    for number, phase in enumerate(("Running", "Succeeded", "")):
        told.store.apply(EXTRACTION_JOB, extraction_job(f"job-{number}", version=1, phase=phase))
    assert [key.name for key in told.store.open_jobs(SHOP)] == ["job-0", "job-2"]
    told.store.apply(EXTRACTION_JOB, extraction_job("job-0", version=2, phase="Failed"))
    told.store.apply(EXTRACTION_JOB, extraction_job("job-2", version=2), deleted=True)
    assert told.store.open_jobs(SHOP) == ()


def test_jobs_under_way_come_first_and_ended_ones_last():
    told = Told()
    names = {"ended": "Succeeded", "new": "", "waits": "Pending", "runs": "Running"}
    for name, phase in random.Random(1).sample(sorted(names.items()), 4):
        told.store.apply(EXTRACTION_JOB, extraction_job(name, version=1, phase=phase))
    told.store.apply(DATA_SOURCE, data_source(version=1))
    assert [ref.key.name for ref in told.store.refs()] == ["runs", "new", "waits", "ended", "shop"]
    assert sorted(told.store.phases()) == ["Pending", "Pending", "Running", "Succeeded"]
    assert str(next(told.store.refs())) == "ExtractionJob default/runs"


def test_a_list_shows_what_is_gone_but_not_what_is_younger():
    told = Told()
    for name, version in (("old", 5), ("kept", 6), ("young", 11)):
        told.store.apply(EXTRACTION_JOB, extraction_job(name, version=version))
    told.store.apply(EXTRACTION_JOB, extraction_job("elsewhere", version=5, namespace="other"))
    listed = [Key("default", "kept")]
    assert told.store.absent(EXTRACTION_JOB, listed, "10", "default") == [Key("default", "old")]
    everywhere = told.store.absent(EXTRACTION_JOB, listed, "10", None)
    assert sorted(everywhere) == [Key("default", "old"), Key("other", "elsewhere")]
    told.store.gone(EXTRACTION_JOB, Key("default", "old"), "10")
    assert told.store.job(Key("default", "old")) is None
    count = len(told.jobs)
    told.store.gone(EXTRACTION_JOB, Key("default", "never"), "10")
    assert len(told.jobs) == count


def test_tombstones_dont_pile_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("extraction_operator.table._TOMBSTONES", 2)
    table: Table[int] = Table()
    for number in range(4):
        table.remove(Key("a", str(number)), "5")
    assert [table.is_news(Key("a", str(number)), "4") for number in range(4)] == [True, True, False, False]


def test_the_volume_of_a_job_is_known_from_its_outline():
    told = Told()
    raw = extraction_job()
    raw["spec"]["sink"] = {"format": {"type": "CSV"}, "volume": {"claimName": "lake"}}
    told.store.apply(EXTRACTION_JOB, raw)
    assert told.store.brief(ORDERS).claim == "lake"


def test_an_ended_job_that_cant_be_read_is_told_when_it_is_looked_at():
    told = Told()
    raw = extraction_job(phase="Succeeded")
    told.store.apply(EXTRACTION_JOB, raw | {"spec": raw["spec"] | {"invented": 1}})
    assert told.broken == []
    assert told.store.job(ORDERS) is None
    assert told.broken == ["ExtractionJob default/orders"]


def test_a_job_is_parsed_once_for_each_of_its_versions():
    store = Told().store
    store.apply(EXTRACTION_JOB, extraction_job(version=5))
    first = store.job(ORDERS)
    assert store.job(ORDERS) is first
    store.apply(EXTRACTION_JOB, extraction_job(version=6, phase="Running"))
    assert store.job(ORDERS).status.phase == "Running"


def test_only_the_jobs_that_were_looked_at_last_are_kept_as_models(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("extraction_operator.store._PARSED", 2)
    store = Told().store
    for number in range(3):
        store.apply(EXTRACTION_JOB, extraction_job(name=f"orders-{number}", version=5))
    known = {number: store.job(Key("default", f"orders-{number}")) for number in (2, 0, 1)}
    assert store.job(Key("default", "orders-1")) is known[1]
    assert store.job(Key("default", "orders-2")) == known[2]
    assert store.job(Key("default", "orders-2")) is not known[2]


def test_a_child_ends_by_its_uid():
    store = Told().store
    store.apply(JOB, child(version=5, uid="this"))
    key = Key("default", "orders-lead-1")
    store.ended(JOB, key, "another")
    assert len(store.children("uid-of-orders")) == 1
    store.ended(JOB, key, "this")
    store.ended(JOB, key, "this")
    assert not store.children("uid-of-orders")
    store.apply(JOB, child(version=6, uid="that"))
    assert store.children("uid-of-orders")[0].uid == "that"


def test_a_version_of_a_child_that_changes_nothing_of_interest_is_told_to_nobody():
    told = Told()
    told.store.apply(EXTRACTION_JOB, extraction_job())
    told.store.apply(JOB, child(version=5))
    told.parents.clear()
    assert told.store.apply(JOB, child(version=6))
    assert not told.parents
    told.store.apply(JOB, child(version=7), deleted=True)
    assert told.parents
