"""Who is decided about anew when something changes."""

from datetime import UTC, datetime, timedelta

from extraction_operator.accounts import Accounts
from extraction_operator.dispatch import Dispatch
from extraction_operator.observe.metrics import Metrics
from extraction_operator.plan.budget import Budget
from extraction_operator.plan.claims import Claim
from extraction_operator.plan.values import Key
from extraction_operator.store import Ref

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SHOP = Key("team", "shop")


def claim(name: str, *, limit: int, parallelism: int = 1) -> Claim:
    created = NOW + timedelta(seconds=ord(name))
    return Claim(Key("team", name), SHOP, "db", limit, active_jobs=9, pool=1, parallelism=parallelism, created=created)


def woken(budget: Budget) -> str:
    """Return the names of the jobs that are woken."""
    added: list[Ref] = []
    metrics = Metrics()
    dispatch = Dispatch(lambda ref, _, **__: added.append(ref), lambda *_: None, budget, metrics, Accounts(metrics))
    dispatch.wake_group("db")
    return "".join(ref.key.name for ref in added)


def test_a_job_at_work_is_left_alone_as_long_as_its_share_stays():
    budget = Budget()
    for name in "abc":
        assert budget.ask(claim(name, limit=100), NOW).admitted
    assert woken(budget) == ""


def test_jobs_at_work_are_woken_to_make_room():
    budget = Budget()
    assert budget.ask(claim("a", limit=8, parallelism=2), NOW).parallelism == 2
    assert budget.ask(claim("b", limit=8, parallelism=4), NOW).parallelism == 4
    assert not budget.ask(claim("c", limit=8, parallelism=1), NOW).admitted
    assert woken(budget) == "bc"


def test_a_job_at_work_is_woken_when_there_is_more_for_it():
    budget = Budget()
    budget.ask(claim("a", limit=5, parallelism=2), NOW)
    assert budget.ask(claim("b", limit=5, parallelism=3), NOW).parallelism == 1
    budget.release(Key("team", "a"))
    assert woken(budget) == "b"


def test_of_those_that_wait_only_the_first_ones_are_woken():
    budget = Budget()
    budget.ask(claim("a", limit=2), NOW)
    for name in "bcdefgh":
        assert not budget.ask(claim(name, limit=2), NOW).admitted
    assert woken(budget) == "bcde"
