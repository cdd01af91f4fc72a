"""The budget of connections: never too many, never stuck, first come, first served."""

from dataclasses import dataclass, replace
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extraction_operator.plan.budget import Budget, Claim, claim_of
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


def test_a_share_grows_calmly_and_says_when():
    budget = Budget()
    budget.ask(claim("a", parallelism=1), NOW)
    grant = budget.ask(claim("a", used=3), NOW + seconds(1))
    assert (grant.parallelism, grant.again_at) == (1, NOW + seconds(30))
    grant = budget.ask(claim("a", used=3), NOW + seconds(30))
    assert (grant.parallelism, grant.again_at) == (4, None)


def test_a_share_doesnt_grow_into_what_others_still_use():
    budget = Budget()
    budget.ask(claim("a", parallelism=1), NOW)
    budget.ask(claim("b", parallelism=1), NOW)
    assert budget.ask(claim("a", used=3), NOW + seconds(60)).parallelism == 3
    assert budget.ask(claim("b", used=3), NOW + seconds(60)).parallelism == 1


def test_who_came_first_begins_first():
    budget = Budget()
    budget.ask(claim("a", used=9), NOW)
    assert not budget.ask(claim("c", pool=1), NOW).admitted
    assert not budget.ask(claim("b"), NOW).admitted
    assert "1 jobs that wait" in budget.ask(claim("c", pool=1), NOW).reason
    assert budget.release(Key("team", "a")) == "db"
    assert budget.release(Key("team", "a")) is None
    assert budget.ask(claim("b"), NOW).admitted
    assert budget.ask(claim("c", pool=1), NOW).admitted


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
    assert claim_of(make_job(), make_source(), jobs, NOW).used == used


def test_a_claim_follows_what_is_declared():
    found = claim_of(make_job(parallelism=7), make_source(pool={"size": 5}, limits={"maxConnections": 4}), (), NOW)
    assert (found.pool, found.limit, found.least, found.parallelism, found.group) == (3, 4, 4, 7, "shop-db:5432")
    assert claim_of(make_job(suspend=True), make_source(), (), NOW).parallelism == 1


# A world of jobs ---------------------------------------------------------------------------------------------------


@dataclass
class Running:
    """A job as it really is: how many pods run, how many are ending, how much there is to do."""

    claim: Claim
    pods: int = 0
    ending: int = 0
    work: int = 10

    @property
    def used(self) -> int:
        return 1 + max(1, self.pods + self.ending) * self.claim.pool if self.pods or self.ending else 0


JOBS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 8), st.integers(1, 6), st.integers(1, 12)), min_size=1, max_size=8
)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(jobs=JOBS, limit=st.integers(3, 24), active_jobs=st.integers(1, 4), order=st.randoms(use_true_random=False))
def test_all_jobs_come_to_an_end_within_the_limit(jobs, limit, active_jobs, order):
    """Whatever the limit and the order of asking, connections stay below it, and every job gets its turn."""
    budget, now = Budget(), NOW
    world = [
        Running(
            Claim(
                Key("team", f"job-{place}"), Key("team", f"source-{source}"), "db", limit, active_jobs,
                min(pool, limit - 1), parallelism, created=NOW + seconds(place),
            ), work=work,
        )
        for place, (source, pool, parallelism, work) in enumerate(jobs)
    ]  # fmt: skip
    for _ in range(60 * len(world)):
        if not world:
            return
        now = _round(budget, world, now, order)
        assert sum(job.used for job in world) <= limit
        assert budget.reserved("db") <= limit
    pytest.fail("somebody never gets a turn")


def _round(budget: Budget, world: list[Running], now: datetime, order) -> datetime:
    """Have the jobs ask in some order, and do what they may."""
    for job in order.sample(world, len(world)):
        grant = budget.ask(replace(job.claim, used=job.used), now)
        if not grant.admitted:
            assert grant.reason
            continue
        # Pods beyond what is granted end; new ones come as others have ended.
        job.ending += max(0, job.pods - grant.parallelism)
        job.pods = max(min(job.pods, grant.parallelism), grant.parallelism - job.ending)
    for job in list(world):
        job.ending = order.randint(0, job.ending - 1) if job.ending else 0
        job.work -= order.randint(1, job.pods) if job.pods else 0
        if job.work <= 0:
            world.remove(job)
            budget.release(job.claim.job)
    return now + seconds(7)
