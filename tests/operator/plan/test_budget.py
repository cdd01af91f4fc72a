"""The budget of connections: never too many, never stuck, first come, first served."""

from dataclasses import dataclass, replace
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extraction_contract.models import DataSource
from extraction_contract.source import ServerStatus
from extraction_operator.plan.budget import CALM, CHECK_PATIENCE, Budget
from extraction_operator.plan.claims import CheckClaim, Claim, claim_of, claim_of_check
from extraction_operator.plan.values import ChildJob, Ending, Key, Role
from support.plan_world import NOW, make_job, make_source, seconds

SHOP = Key("team", "shop")


def claim(name: str, *, used: int = 0, source: Key = SHOP, **fields) -> Claim:
    """Return the claim of a job; those with greater names came later."""
    values = {"group": "db", "limit": 10, "active_jobs": 5, "pool": 2, "parallelism": 4} | fields
    return Claim(Key("team", name), source, created=NOW + seconds(ord(name[0])), used=used, **values)


def test_one_job_gets_what_it_wants_or_what_there_is():
    assert Budget().ask(claim("a", parallelism=2), NOW).parallelism == 2
    assert Budget().ask(claim("a", parallelism=9), NOW).parallelism == 4
    assert Budget().ask(claim("a", limit=3), NOW).parallelism == 1


def test_a_second_job_waits_until_the_first_has_made_room():
    budget = Budget()
    assert budget.ask(claim("a"), NOW).parallelism == 4
    state = budget.state("db")
    refused = budget.ask(claim("b"), NOW)
    assert not refused.admitted
    assert "9 connections to db are in use" in refused.reason
    assert budget.state("db") != state, "others have to make room"
    assert (budget.waiting(SHOP), budget.active(SHOP)) == (1, 1)
    # The first gets less from now on; as long as it still has its pods, nobody else begins.
    assert budget.ask(claim("a", used=9), NOW).parallelism == 2
    assert not budget.ask(claim("b"), NOW).admitted
    assert budget.ask(claim("a", used=5), NOW).parallelism == 2
    assert budget.ask(claim("b"), NOW).parallelism == 2
    assert budget.reserved("db") == 10
    assert budget.members("db") == (Key("team", "a"), Key("team", "b"))


def working(name: str, pods: int, **fields) -> Claim:
    """Return the claim of a job that has a worker Job."""
    return claim(name, used=1 + pods * fields.get("pool", 2), working=True, **fields)


def test_a_worker_job_isnt_resized_twice_within_half_a_minute():
    budget = Budget()
    budget.ask(claim("a"), NOW)
    assert budget.ask(working("a", 4), NOW).parallelism == 4
    budget.ask(claim("b"), NOW)
    assert budget.ask(working("a", 4), NOW + seconds(1)).parallelism == 2
    budget.release(Key("team", "b"))
    grant = budget.ask(working("a", 2), NOW + seconds(2))
    assert (grant.parallelism, grant.again_at) == (2, NOW + seconds(31))
    grant = budget.ask(working("a", 2), NOW + seconds(31))
    assert (grant.parallelism, grant.again_at) == (4, None)
    # Nor does it shrink right after it has grown.
    budget.ask(claim("b"), NOW + seconds(32))
    grant = budget.ask(working("a", 4), NOW + seconds(33))
    assert (grant.parallelism, grant.again_at) == (4, NOW + seconds(61))
    assert budget.ask(working("a", 4), NOW + seconds(61)).parallelism == 2


def test_what_people_declare_is_followed_at_once():
    budget = Budget()
    budget.ask(claim("a"), NOW)
    budget.ask(claim("b"), NOW)
    assert budget.ask(working("a", 4), NOW).parallelism == 2
    assert budget.ask(working("a", 2, parallelism=1), NOW + seconds(1)).parallelism == 1


def test_before_there_are_workers_a_share_changes_freely():
    budget = Budget()
    for _ in range(3):
        assert budget.ask(claim("a", used=3), NOW).parallelism == 4
        assert not budget.ask(claim("b"), NOW).admitted
        assert budget.ask(claim("a", used=3), NOW).parallelism == 2
        budget.release(Key("team", "b"))


def test_a_share_doesnt_grow_into_what_others_still_use():
    budget = Budget()
    budget.ask(claim("a", parallelism=1), NOW)
    budget.ask(claim("b", parallelism=1), NOW)
    assert budget.ask(claim("a", used=3), NOW).parallelism == 3
    # Fair would be two pods each; what the first has beyond that isn't free yet.
    assert budget.ask(claim("b", used=3), NOW).parallelism == 1


def test_who_came_first_begins_first():
    budget = Budget()
    budget.ask(claim("a", used=9), NOW)
    assert not budget.ask(claim("c", pool=1), NOW).admitted
    assert not budget.ask(claim("b"), NOW).admitted
    assert "1 jobs that wait for db come first" in budget.ask(claim("c", pool=1), NOW).reason
    assert budget.release(Key("team", "a")) == "db"
    assert budget.release(Key("team", "a")) is None
    assert budget.ask(claim("b"), NOW).admitted
    assert budget.ask(claim("c", pool=1), NOW).admitted


def test_among_those_that_wait_priority_comes_before_age():
    budget = Budget()
    budget.ask(claim("a", used=9), NOW)
    assert not budget.ask(claim("b"), NOW).admitted
    state = budget.state("db")
    assert not budget.ask(claim("c", priority=1), NOW).admitted
    assert budget.members("db") == (Key("team", "a"), Key("team", "c"), Key("team", "b"))
    budget.release(Key("team", "a"))
    assert "1 jobs" in budget.ask(claim("b"), NOW).reason
    # It may change: those that come first by it are told.
    state = budget.state("db")
    assert not budget.ask(claim("b", priority=2, limit=2), NOW).admitted, "too little for any job"
    assert budget.ask(claim("b", priority=2), NOW).admitted
    assert budget.state("db") != state


def test_a_change_of_priority_concerns_the_others():
    budget = Budget()
    for name in "abc":
        budget.ask(claim(name, used=9 if name == "a" else 0), NOW)
    state = budget.state("db")
    budget.ask(claim("b", priority=-1), NOW)
    assert budget.state("db") != state


def test_the_cap_holds_over_all_groups_and_its_line_too():
    budget = Budget(cap=7)
    assert budget.ask(claim("a", group="one", parallelism=2), NOW).parallelism == 2
    refused = budget.ask(claim("b", group="two"), NOW)
    assert refused.reason == "5 connections to all sources are in use: with 3 more than 7."
    assert budget.ask(claim("a", group="one", parallelism=2, used=5), NOW).parallelism == 1
    # Who comes later doesn't overtake it, though it would fit.
    assert "Jobs come first" in budget.ask(claim("c", group="three", pool=1), NOW).reason
    assert budget.affected("one", 4) == (Key("team", "b"),)
    assert budget.ask(claim("a", group="one", parallelism=2, used=3), NOW).parallelism == 1
    assert budget.ask(claim("b", group="two"), NOW).parallelism == 1
    assert budget.spent == 6
    assert budget.affected("two", 4) == ()


def test_who_waits_for_its_own_group_isnt_in_the_way_of_others():
    budget = Budget()
    budget.ask(claim("a", group="one", used=9), NOW)
    assert not budget.ask(claim("b", group="one", priority=9), NOW).admitted
    assert budget.ask(claim("c", group="two"), NOW).admitted


def test_room_is_made_only_for_those_that_may_begin():
    """Of many jobs of a source only so many count as may be at work: others would keep room free for nothing."""
    budget = Budget()
    fields = {"limit": 20, "pool": 1, "active_jobs": 2, "parallelism": 18}
    assert budget.ask(claim("a", **fields), NOW).parallelism == 18
    for name in "bcdefghi":
        assert not budget.ask(claim(name, **fields), NOW).admitted
    assert budget.ask(claim("a", used=19, **fields), NOW).parallelism == 9
    assert budget.ask(claim("a", used=10, **fields), NOW).parallelism == 9
    assert budget.ask(claim("b", **fields), NOW).parallelism == 9
    assert budget.reserved("db") == 20


def test_a_later_job_that_would_fit_keeps_no_room_free_while_another_comes_first():
    budget = Budget()
    assert budget.ask(claim("a", parallelism=4), NOW).parallelism == 4
    assert not budget.ask(claim("b", pool=8), NOW).admitted
    assert not budget.ask(claim("c", pool=1), NOW).admitted
    assert budget.ask(claim("a", parallelism=4, used=9), NOW).parallelism == 4


@pytest.mark.parametrize(("limit", "cap"), [(2, 100), (1, 100), (10, 2)])
def test_a_limit_that_is_too_small_for_a_job_is_the_reason_and_in_nobodys_way(limit, cap):
    budget = Budget(cap)
    refused = budget.ask(claim("a", limit=limit), NOW)
    assert refused.reason == f"{min(limit, cap)} connections to db are too few for a job: it needs 3."
    assert budget.ask(claim("b", limit=10, pool=1), NOW).admitted


def test_a_source_with_enough_jobs_isnt_in_the_way_of_others():
    budget = Budget()
    budget.ask(claim("a", active_jobs=1, parallelism=1), NOW)
    assert "limits.activeJobs is 1" in budget.ask(claim("b", active_jobs=1), NOW).reason
    assert budget.ask(claim("c", source=Key("team", "other")), NOW).admitted


def test_a_job_that_runs_is_taken_over_after_a_start():
    budget = Budget()
    assert budget.ask(claim("a", used=11), NOW).admitted
    assert not budget.ask(claim("b"), NOW).admitted


@pytest.mark.parametrize(
    ("children", "used"),
    [
        ((), 0),
        (({"role": Role.LEAD},), 3),
        (({"role": Role.LEAD, "parallelism": 0},), 0),
        (({"role": Role.LEAD, "ending": Ending.COMPLETE},), 0),
        (({"role": Role.LEAD}, {"role": Role.WORK, "parallelism": 4, "active": 1}), 9),
        (({"role": Role.LEAD}, {"role": Role.WORK, "parallelism": 1, "active": 3, "terminating": 1}), 9),
        (({"role": Role.LEAD}, {"role": Role.WORK, "parallelism": 4, "suspended": True, "suspended_since": NOW}), 3),
        (({"role": Role.WORK, "parallelism": 4, "ending": Ending.FAILED, "terminating": 2},), 5),
        (
            (
                {"role": Role.LEAD}, {"role": Role.WORK, "deleting": True, "parallelism": 3, "terminating": 1},
                {"role": Role.WORK, "parallelism": 2},
            ), 7,
        ),
        (({"role": Role.CLEAN},), 0),
    ],
)  # fmt: skip
def test_what_a_job_uses_is_read_from_its_children(children, used):
    jobs = tuple(ChildJob("name", "uid", attempt=1, number=0, created=NOW, **child) for child in children)
    assert claim_of(make_job(), make_source(), jobs, NOW, 100).used == used


def claimed(job=None, *, cap: int = 100, now: datetime = NOW, **source) -> Claim:
    return claim_of(job or make_job(), make_source(**source), (), now, cap)


def test_a_claim_follows_what_is_declared():
    found = claimed(make_job(parallelism=7, priority=3), pool={"size": 5}, limits={"maxConnections": 4})
    assert (found.pool, found.limit, found.least, found.parallelism, found.group) == (3, 4, 4, 7, "shop-db:5432")
    assert (found.priority, found.working, found.changes_at) == (3, False, None)
    assert claimed(make_job(suspend=True)).parallelism == 1
    assert claimed(pool={"size": 5}, cap=2).pool == 1
    assert claimed(limits={"maxConnections": 2}).least == 2


def check(source: str = "new", *, group: str = "db", limit: int = 10, runs: bool = False) -> CheckClaim:
    """Return the claim of a source's check."""
    return CheckClaim(Key("team", source), group, limit, runs)


def test_a_check_counts_while_it_runs():
    budget = Budget()
    assert budget.ask_check(check(), NOW).admitted
    assert (budget.reserved("db"), budget.spent, budget.reserved("other")) == (1, 1, 0)
    assert budget.ask(claim("a"), NOW).parallelism == 4
    assert budget.reserved("db") == 10
    refused = budget.ask(claim("b", limit=11), NOW)
    assert "10 connections to db are in use" in refused.reason
    # It goes on, whatever others have.
    assert budget.ask_check(check(runs=True), NOW).admitted
    assert budget.release_check(Key("team", "new")) == "db"
    assert budget.reserved("db") == 9
    assert budget.release_check(Key("team", "new")) is None


def test_with_a_full_budget_a_check_waits_and_says_why():
    budget = Budget()
    budget.ask(working("a", 4, limit=9), NOW)
    state = budget.state("db")
    grant = budget.ask_check(check(limit=9), NOW)
    assert (grant.admitted, grant.again_at) == (False, NOW + CHECK_PATIENCE)
    assert grant.reason == "9 connections to db are in use, of 9: the check waits for one."
    assert budget.state("db") != state
    assert budget.waiting_checks() == (Key("team", "new"),)
    # No pod of a job is ended for it.
    assert budget.ask(working("a", 4, limit=9), NOW + seconds(20)).parallelism == 4
    budget.release(Key("team", "a"))
    assert budget.ask_check(check(limit=9), NOW + seconds(21)).admitted
    assert budget.waiting_checks() == ()


def test_a_check_waits_for_the_connections_to_all_sources_too():
    budget = Budget(cap=5)
    budget.ask(working("a", 2), NOW)
    assert "5 connections to all sources are in use, of 5" in budget.ask_check(check(group="other"), NOW).reason


def test_while_a_check_waits_no_job_begins_or_grows_in_its_place():
    budget = Budget()
    budget.ask(working("a", 2, limit=7, parallelism=2), NOW)
    budget.ask(working("b", 1, limit=7, pool=1, parallelism=1), NOW)
    assert not budget.ask_check(check(limit=7), NOW).admitted
    budget.release(Key("team", "b"))
    # Two are free: of them the check gets one, and whoever needs two has to wait.
    assert budget.ask(working("a", 2, limit=7, parallelism=9), NOW + CALM).parallelism == 2
    assert not budget.ask(claim("c", pool=1, limit=7), NOW).admitted
    assert budget.ask_check(check(limit=7), NOW).admitted
    assert budget.ask(working("a", 2, limit=7, parallelism=9), NOW + CALM).parallelism == 2
    budget.release(Key("team", "c"))
    budget.release_check(Key("team", "new"))
    assert budget.ask(working("a", 2, limit=7, parallelism=9), NOW + CALM).parallelism == 3


def test_a_check_that_waited_long_begins_all_the_same_and_no_job_shrinks_for_it():
    budget = Budget()
    budget.ask(working("a", 4, limit=9), NOW)
    assert not budget.ask_check(check(limit=9), NOW).admitted
    assert not budget.ask_check(check(limit=9), NOW + CHECK_PATIENCE - seconds(1)).admitted
    assert budget.ask_check(check(limit=9), NOW + CHECK_PATIENCE).admitted
    assert budget.reserved("db") == 10
    for later in (0, 31, 62):
        assert budget.ask(working("a", 4, limit=9), NOW + CHECK_PATIENCE + seconds(later)).parallelism == 4
    # Others for whom room is made get it, as before.
    assert not budget.ask(claim("b", limit=9), NOW + seconds(100)).admitted
    assert budget.ask(working("a", 4, limit=9), NOW + seconds(100)).parallelism == 2


def test_the_claim_of_a_check_follows_what_is_declared():
    source = make_source()
    found = claim_of_check(source, NOW, runs=True)
    assert (found.group, found.limit, found.runs) == (source.budget_group, source.spec.limits.max_connections, True)
    assert found.source == Key(source.metadata.namespace or "", source.metadata.name)
    window = {"start": "00:00", "end": "23:59", "timeZone": "UTC", "maxConnections": 3}
    limits = {"windows": [window, {**window, "start": "23:59", "end": "00:00"}]}
    spec = source.spec.model_dump(by_alias=True, exclude_none=True) | {"limits": limits}
    narrow = DataSource.model_validate({"metadata": source.metadata, "spec": spec}, strict=False)
    assert claim_of_check(narrow, NOW, runs=False).limit == 3


@pytest.mark.parametrize(("role", "limit", "pool"), [(-1, 10, 2), (5, 5, 2), (2, 2, 1), (1, 1, 1), (50, 10, 2)])
def test_the_limit_of_the_role_counts(role, limit, pool):
    source = make_source()
    server = ServerStatus(version="18.6", latency_milliseconds=1, role_connection_limit=role)
    source = source.model_copy(update={"status": source.status.model_copy(update={"server": server})})
    found = claim_of(make_job(), source, (), NOW, 100)
    assert (found.limit, found.pool) == (limit, pool)
    assert Budget().ask(found, NOW).admitted is (role != 1)


def test_a_window_changes_the_limit_and_beyond_all_of_them_one_pod_goes_on():
    assert f"{NOW:%H:%M}" == "12:00"
    lunch = {"start": "12:00", "end": "13:00", "maxConnections": 4}
    night = {"start": "22:00", "end": "06:00"}
    found = claimed(limits={"windows": [lunch, night]})
    assert (found.limit, found.pool, found.parallelism, found.changes_at) == (4, 2, 4, NOW + seconds(3600))
    later = claimed(limits={"windows": [lunch, night]}, now=NOW + seconds(3600))
    assert (later.limit, later.parallelism, later.changes_at) == (10, 1, NOW + seconds(10 * 3600))
    grant = Budget().ask(replace(found, used=9), NOW)
    assert (grant.parallelism, grant.again_at) == (1, NOW + seconds(3600))


# A world of jobs ---------------------------------------------------------------------------------------------------


@dataclass
class Running:
    """A job as it really is: how many pods run, how many are ending, how much there is to do."""

    claim: Claim
    pods: int = 0
    ending: int = 0
    work: int = 10
    resized: datetime | None = None

    @property
    def used(self) -> int:
        return 1 + max(1, self.pods + self.ending) * self.claim.pool if self.pods or self.ending else 0

    def seen(self) -> Claim:
        return replace(self.claim, used=self.used, working=bool(self.pods))


JOBS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 8), st.integers(1, 6), st.integers(1, 12), st.integers(-1, 1)),
    min_size=1, max_size=9,
)  # fmt: skip
LIMITS = st.integers(2, 24)


def world_of(jobs, limits, active_jobs, cap) -> list[Running]:
    """Return jobs of four sources on two servers."""
    return [
        Running(
            Claim(
                Key("team", f"job-{place}"), Key("team", f"source-{source}"), f"db-{source % 2}", limits[source % 2],
                active_jobs, min(pool, limits[source % 2] - 1, cap - 1), parallelism, created=NOW + seconds(place),
                priority=priority,
            ), work=work,
        )
        for place, (source, pool, parallelism, work, priority) in enumerate(jobs)
    ]  # fmt: skip


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(
    jobs=JOBS, limits=st.tuples(LIMITS, LIMITS), cap=st.integers(2, 40), active_jobs=st.integers(1, 4),
    order=st.randoms(use_true_random=False),
)  # fmt: skip
def test_all_jobs_come_to_an_end_within_the_limits(jobs, limits, cap, active_jobs, order):
    """Whatever the limits and the order of asking, connections stay below them, and every job gets its turn."""
    budget, now = Budget(cap), NOW
    world = world_of(jobs, limits, active_jobs, cap)
    waits: dict[CheckClaim, datetime] = {}
    for _ in range(60 * len(world)):
        if not world:
            return
        # Now and then somebody has a source checked, which takes a round.
        for place, limit in enumerate(limits):
            claim = check(f"s-{place}", group=f"db-{place}", limit=limit)
            if claim not in waits and order.random() < 0.8:
                continue
            late = now >= waits.setdefault(claim, now) + CHECK_PATIENCE
            if budget.ask_check(claim, now).admitted:
                # Unless it has waited for long it takes what is free.
                assert late or (budget.reserved(claim.group) <= limit and budget.spent <= cap)
                budget.release_check(claim.source)
                del waits[claim]
            assert not late or claim not in waits
        now = _round(budget, world, now, order)
        for place, limit in enumerate(limits):
            assert sum(job.used for job in world if job.claim.group == f"db-{place}") <= limit
            assert budget.reserved(f"db-{place}") <= limit
        assert budget.spent <= cap
    pytest.fail("somebody never gets a turn")


def _round(budget: Budget, world: list[Running], now: datetime, order) -> datetime:
    """Have the jobs ask in some order, and do what they may."""
    for job in order.sample(world, len(world)):
        _ask(budget, job, now)
    for job in list(world):
        job.ending = order.randint(0, job.ending - 1) if job.ending else 0
        job.work -= order.randint(1, job.pods) if job.pods else 0
        if job.work <= 0:
            world.remove(job)
            budget.release(job.claim.job)
    return now + seconds(7)


def _ask(budget: Budget, job: Running, now: datetime) -> None:
    grant = budget.ask(job.seen(), now)
    if not grant.admitted:
        assert grant.reason
        return
    if job.pods and grant.parallelism != job.pods + job.ending and grant.parallelism != job.pods:
        assert job.resized is None or now - job.resized >= CALM, "resized twice in half a minute"
        job.resized = now
    # Pods beyond what is granted end; new ones come as others have ended.
    job.ending += max(0, job.pods - grant.parallelism)
    job.pods = max(min(job.pods, grant.parallelism), grant.parallelism - job.ending)


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(
    jobs=JOBS, limits=st.tuples(LIMITS, LIMITS), cap=st.integers(2, 40), active_jobs=st.integers(1, 4),
    order=st.randoms(use_true_random=False),
)  # fmt: skip
def test_nothing_that_somebody_could_use_stays_unused(jobs, limits, cap, active_jobs, order):
    """Once everybody has what it was granted, what is left is less than any pod or job that wants more would need."""
    budget, now = Budget(cap), NOW
    world = world_of(jobs, limits, active_jobs, cap)
    for _ in range(3 * len(world) + 6):
        for job in order.sample(world, len(world)):
            _ask(budget, job, now)
            job.ending = 0
        now += CALM
    free = {f"db-{place}": min(limit - budget.reserved(f"db-{place}"), cap - budget.spent)
            for place, limit in enumerate(limits)}  # fmt: skip
    heads = set()
    for key in (*budget.members("db-0"), *budget.members("db-1")):
        [job] = [job for job in world if job.claim.job == key]
        if job.pods:
            assert job.pods == job.claim.parallelism or free[job.claim.group] < job.claim.pool
        elif budget.active(job.claim.source) < active_jobs and job.claim.group not in heads:
            heads.add(job.claim.group)  # others wait behind it
            assert free[job.claim.group] < job.claim.least
    # And nobody has two pods more than another one that could use them.
    for group in free:
        mine = [job for job in world if job.pods and job.claim.group == group]
        wanting = [job.pods for job in mine if job.pods < job.claim.parallelism and job.claim.pool == 1]
        for job in mine:
            assert all(job.pods <= pods + 1 for pods in wanting)
