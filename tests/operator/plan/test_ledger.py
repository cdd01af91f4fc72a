"""The budget's ledger: it answers as the plainest one would, and looks at few of those that wait."""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extraction_operator.plan.budget import Budget
from extraction_operator.plan.claims import CheckClaim, Claim
from extraction_operator.plan.ledger import Ledger
from extraction_operator.plan.outlook import Outlook
from extraction_operator.plan.values import Key
from support.plain_budget import PlainBudget
from support.plan_world import NOW, seconds

CAPS = (2, 4, 7, 10, 14, 20, 30, 50, 100, 1_000_000)
GROUPS = ("db-0", "db-1", "db-2")
SOURCES = tuple(Key("team", f"source-{place}") for place in range(4))


@dataclass(frozen=True)
class Declared:
    """What a source declares now; its jobs learn of a change when they ask next."""

    group: str
    limit: int
    active_jobs: int
    pool: int


class Twins:
    """A budget and the plain one, of which the same is asked.

    What happens often differs from one pair to another, so that things meet that seldom do.
    """

    def __init__(self, order: Random) -> None:
        self.order = order
        self.cap = order.choice(CAPS)
        self.budget, self.plain = Budget(self.cap), PlainBudget(self.cap)
        self.jobs = [Key("team", f"job-{place}") for place in range(order.choice((5, 8, 12)))]
        self.groups = GROUPS[: order.choice((1, 2, 3))]
        self.sources = SOURCES[: order.choice((1, 2, 4))]
        self.limits = {group: order.choice((3, 6, 9, 14, 30, 200)) for group in self.groups}
        self.declared = {source: self.declare() for source in self.sources}
        self.claims: dict[Key, Claim] = {}
        self.now = NOW
        self.steps = [self.ask, self.change, self.release, self.check, self.release_check, self.learn, self.wait]
        self.weights = [20, *(order.choice((0, 2, 8)) for _ in self.steps[1:])]
        self.changes = [self.use, *order.sample(self.odd_changes(), 3)]
        self.hurry = order.choice((0.3, 1.0))

    def declare(self) -> Declared:
        order = self.order
        group = order.choice(self.groups)
        return Declared(group, self.limits[group], order.choice((1, 2, 4, 100)), order.choice((1, 1, 2, 5)))

    def step(self) -> None:
        """Do one thing to both."""
        (step,) = self.order.choices(self.steps, self.weights)
        step()
        if self.order.random() < self.hurry:
            self.compare()

    def ask(self) -> None:
        order = self.order
        job = order.choice(self.jobs)
        claim = self.claims.get(job)
        if claim is None:
            claim = Claim(
                job, order.choice(self.sources), "", 0, 0, 1, order.choice((1, 2, 4, 9)),
                created=NOW + seconds(order.randrange(8)), priority=order.choice((0, 0, 0, 1, -1)),
            )  # fmt: skip
        self.tell(replace(claim, **asdict(self.declared[claim.source])))

    def change(self) -> None:
        """Have a job want something else, or have more or fewer pods."""
        if self.claims:
            claim = self.claims[self.order.choice(sorted(self.claims))]
            self.tell(replace(claim, **self.order.choice(self.changes)(claim)))

    def use(self, claim: Claim) -> dict[str, object]:
        pods = self.order.choice((0, 1, 2, 3, 6))
        return {"used": 1 + pods * claim.pool if pods else 0, "working": pods > 0}

    def odd_changes(self) -> list[Callable[[Claim], dict[str, object]]]:
        order = self.order
        return [
            lambda _: {"priority": order.randrange(-1, 2)},
            lambda _: {"parallelism": order.choice((1, 3, 9))},
            lambda _: {"pool": order.choice((1, 2, 3))},
            lambda _: {"limit": order.choice((2, 6, 12, 50))},
            lambda _: {"active_jobs": order.choice((1, 2, 3))},
            lambda _: {"group": order.choice(self.groups)},
            lambda _: {"source": order.choice(self.sources)},
            lambda _: {"created": NOW + seconds(order.randrange(8))},
            lambda _: {"changes_at": self.now + seconds(order.randrange(1, 60))},
        ]

    def tell(self, claim: Claim) -> None:
        self.claims[claim.job] = claim
        grant = self.budget.ask(claim, self.now)
        assert grant == self.plain.ask(claim, self.now)
        if grant.admitted and self.order.random() < 0.5:
            # It starts its pods, and has old ones beside them for a while.
            pods = self.order.randrange(grant.parallelism + 1) or grant.parallelism
            self.claims[claim.job] = replace(claim, used=1 + pods * claim.pool, working=True)

    def release(self) -> None:
        self.let_go(self.order.choice(self.jobs))

    def let_go(self, job: Key) -> None:
        self.claims.pop(job, None)
        assert self.budget.release(job) == self.plain.release(job)

    def check(self) -> None:
        order = self.order
        source = order.choice(self.sources)
        group = self.declared[source].group
        claim = CheckClaim(source, group, self.limits[group], runs=order.random() < 0.2)
        assert self.budget.ask_check(claim, self.now) == self.plain.ask_check(claim, self.now)

    def release_check(self) -> None:
        self.let_go_check(self.order.choice(self.sources))

    def let_go_check(self, source: Key) -> None:
        assert self.budget.release_check(source) == self.plain.release_check(source)

    def learn(self) -> None:
        self.declared[self.order.choice(self.sources)] = self.declare()

    def wait(self) -> None:
        self.now += seconds(self.order.choice((1, 10, 31)))

    def compare(self) -> None:
        """Ask all questions; those that may be answered from what was found before come first, or second."""
        for ask in self.order.sample([self.compare_groups, self.compare_sums], 2):
            ask()

    def compare_groups(self) -> None:
        for group in (*GROUPS, "unknown"):
            number = self.order.choice((0, 1, 4, 99))
            assert self.budget.affected(group, number) == self.plain.affected(group, number)
            assert self.budget.state(group) == self.plain.state(group)
            assert self.budget.members(group) == self.plain.members(group)
            assert self.budget.reserved(group) == self.plain.reserved(group)

    def compare_sums(self) -> None:
        budget, plain = self.budget, self.plain
        assert (budget.spent, budget.used()) == (plain.spent, plain.used())
        assert budget.waiting_checks() == plain.waiting_checks()
        for source in (*SOURCES, Key("team", "unknown")):
            assert (budget.waiting(source), budget.active(source)) == (plain.waiting(source), plain.active(source))


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(order=st.randoms(use_true_random=True), steps=st.integers(10, 60))
def test_it_answers_as_the_plain_one(order, steps):
    twins = Twins(order)
    for _ in range(steps):
        twins.step()
    # And in the end nothing is left.
    for job in twins.jobs:
        twins.let_go(job)
    for source in SOURCES:
        twins.let_go_check(source)
    twins.compare()
    kept = [twins.budget._ledger, twins.budget._outlook]
    new = [Ledger(twins.cap), Outlook(Ledger(twins.cap))]
    assert [facts(one) for one in kept] == [facts(one) for one in new]


def facts(kept: object) -> dict[str, object]:
    """Return what is remembered, but not what was found of it and may be forgotten."""
    return {name: value for name, value in vars(kept).items() if name not in {"shares", "_ledger"}}


def test_a_source_moves_to_another_server_job_by_job():
    """Its jobs count together, though some of them still wait for the connections of the old one."""
    old, new, moving = GROUPS[0], GROUPS[1], SOURCES[0]

    def claim(place: int, source: Key, group: str, pool: int, *, used: int = 0) -> Claim:
        return Claim(Key("team", f"{place}"), source, group, 10, 1, pool, 4, NOW + seconds(place), used)

    claims = [
        claim(0, SOURCES[1], old, 1, used=9),
        claim(1, SOURCES[2], new, 1, used=10),
        claim(2, SOURCES[3], old, 9),  # all others in its group wait behind it
        claim(3, moving, old, 1),
        claim(4, moving, new, 1),
    ]
    for budget in (Budget(), PlainBudget(100)):
        assert [budget.ask(claim, NOW).admitted for claim in claims] == [True, True, False, False, False]
        assert claims[4].job not in budget.affected("", 4), "of its source another one comes first"
        budget.release(claims[3].job)
        assert claims[4].job in budget.affected("", 4)


def calls(work: Callable[[], object]) -> int:
    """Return how many functions are called, of Python or of C. A sort is one, however long."""
    number = 0

    def count(_frame: object, event: str, _arg: object) -> None:
        nonlocal number
        number += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return number


def crowded(waiting: int, sources: int, cap: int) -> Budget:
    """Return a budget with some jobs at work, and many that wait."""
    budget = Budget(cap)
    for place in range(waiting + cap // 4):
        budget.ask(of_crowd(place, sources), NOW)
    return budget


def of_crowd(place: int, sources: int) -> Claim:
    source = place % sources
    return Claim(
        Key("team", f"job-{place}"), Key("team", f"source-{source}"), f"db-{source % 10}", limit=20, active_jobs=50,
        pool=1, parallelism=3, created=NOW + seconds(place),
    )  # fmt: skip


def a_day(budget: Budget, sources: int) -> None:
    """Have jobs come, ask again, be looked at, and end, whether they wait or work."""
    for place in (100_000, 100_001, 5, 40, 100_000):
        claim = of_crowd(place, sources)
        budget.ask(claim, NOW)
        budget.affected(claim.group, 4)
    for place in (5, 40, 100_001, 3):
        claim = of_crowd(place, sources)
        budget.release(claim.job)
        budget.ask_check(CheckClaim(claim.source, claim.group, claim.limit), NOW)
        for job in budget.affected(claim.group, 4):
            budget.ask(of_crowd(int(job.name.removeprefix("job-")), sources), NOW)
        budget.state(claim.group)
        budget.reserved(claim.group)
        budget.waiting(claim.source)
        budget.waiting_checks()
        budget.release_check(claim.source)


@pytest.mark.parametrize(("sources", "cap"), [(1, 40), (20, 40), (1, 1_000), (20, 1_000)])
def test_those_that_wait_cost_nothing(sources, cap):
    """A hundred times as many wait for the limit of their group, or for the cap over all of them."""
    few, many = (crowded(waiting, sources, cap) for waiting in (20, 2_000))
    assert calls(lambda: a_day(many, sources)) <= 2 * calls(lambda: a_day(few, sources))
