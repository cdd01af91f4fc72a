"""Slots: never more sessions than the budget has, over databases and roles, and every job that begins can end."""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extraction_worker.errors import InvalidManifest, SourceBusy
from extraction_worker.source.reader import BackendState, ask_server
from extraction_worker.source.session import connect
from extraction_worker.source.slots import (
    Claim,
    Look,
    Offer,
    Release,
    Seen,
    SlotBudget,
    Try,
    back_off,
    claim_steps,
    patiently,
)
from support.databases import settings_of, wait_until

# A model of the server, in which every interleaving of lock operations can be tried ------------------------------


class Server:
    """Advisory locks of several databases, and ``pg_locks``."""

    def __init__(self) -> None:
        self.locks = Counter()  # (database, slot, session, shared) → times
        self.offers = {}  # (run, slot) → session
        self.established = set()

    def answer(self, session, step):
        match step:
            case Look():
                sessions = {}
                for (_, slot, holder, _), times in self.locks.items():
                    if times:
                        sessions.setdefault(slot, set()).add(holder.pid)
                offers = {slot: holder.pid for (run, slot), holder in self.offers.items() if run == session.run}
                return Seen(session.pid, {slot: frozenset(pids) for slot, pids in sessions.items()}, offers)
            case Try(slot, shared):
                for (database, other, holder, mode), times in self.locks.items():
                    theirs = times and database == session.database and other == slot and holder is not session
                    if theirs and not (mode and shared):
                        return False
                self.locks[session.database, slot, session, shared] += 1
                return True
            case Release(slot, shared):
                self.locks[session.database, slot, session, shared] -= 1
                assert self.locks[session.database, slot, session, shared] >= 0
            case Offer(slot):
                self.locks[session.database, slot, session, True] += 1
                self.locks[session.database, slot, session, False] -= 1
                self.offers[session.run, slot] = session
        return None

    def close(self, session):
        self.established.discard(session)
        self.locks = Counter({key: times for key, times in self.locks.items() if key[2] is not session})
        self.offers = {key: holder for key, holder in self.offers.items() if holder is not session}

    def has(self, session):
        return {key[1] for key, times in self.locks.items() if times and key[2] is session}


class Session:
    def __init__(self, pid, run, database):
        self.pid, self.run, self.database = pid, run, database


def job_steps(server, pids, run, database, limit, pick, readers):
    """Yield after every operation of a job: hold, plan, read with several sessions of which one is needed."""

    def knock(claim):
        session = Session(next(pids), run, database)
        steps = claim_steps(limit, claim, pick)
        answer = None
        try:
            while True:
                answer = server.answer(session, steps.send(answer))
                yield
        except StopIteration as end:
            if not end.value:
                assert not server.has(session), "a session that gives up has something"
                server.close(session)
                return None
            server.established.add(session)
            return session

    def waits(claim):
        while (session := (yield from knock(claim))) is None:
            yield
        return session

    holder = yield from waits(Claim.HOLD)
    planner = yield from waits(Claim.WORK)
    yield
    server.close(planner)
    reading = [(yield from waits(Claim.WORK))]
    for _ in range(readers - 1):
        more = yield from knock(Claim.WORK)
        reading += [more] if more is not None else []
    spare = yield from knock(Claim.SPARE)
    if spare is not None:
        server.close(spare)
    for session in reading:
        yield
        server.close(session)
    server.close(holder)


@settings(max_examples=150, deadline=None)
@given(
    limit=st.integers(2, 6),
    jobs=st.integers(1, 10),
    databases=st.integers(1, 3),
    readers=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_however_operations_interleave_the_limit_holds_and_every_job_ends(limit, jobs, databases, readers, seed):
    chance, server, pids = random.Random(seed), Server(), iter(range(1, 1 << 30))
    running = [
        job_steps(server, pids, f"run-{number}", number % databases, limit, chance.choice, readers)
        for number in range(jobs)
    ]
    for _ in range(200_000):
        if not running:
            break
        steps = chance.choice(running)
        try:
            next(steps)
        except StopIteration:
            running.remove(steps)
        assert len(server.established) <= limit
    assert not running, "jobs wait for each other"
    assert not +server.locks


@given(limit=st.integers(2, 6), seed=st.integers(0, 2**32))
def test_what_others_do_a_job_that_holds_can_read(limit, seed):
    chance, server, pids = random.Random(seed), Server(), iter(range(1, 1 << 30))

    def knock(run, claim):
        session, steps, answer = Session(next(pids), run, 0), claim_steps(limit, claim, chance.choice), None
        try:
            while True:
                answer = server.answer(session, steps.send(answer))
        except StopIteration as end:
            return session if end.value else None

    holder = knock("mine", Claim.HOLD)
    others = [knock(f"other-{number}", chance.choice(list(Claim))) for number in range(10)]
    assert None in others  # the budget is used up
    assert knock("mine", Claim.SPARE) is None
    reader = knock("mine", Claim.WORK)
    assert reader is not None
    assert knock("mine", Claim.WORK) is None
    server.close(reader)
    assert knock("mine", Claim.WORK) is not None
    server.close(holder)


# Real servers -----------------------------------------------------------------------------------------------------


def slots_of(database, /, *, limit=3, group="shop", run="", user=None, password=None, **changes):
    return settings_of(database, user, password, slots=SlotBudget(group, limit, run), **changes)


def free_again(database, group="shop"):
    key = SlotBudget(group, 1).group_key
    wait_until(lambda: database.execute("SELECT count(*) FROM pg_locks WHERE classid::int8 = %s", key) == [(0,)])


def test_keys_are_the_same_everywhere_and_for_ever():
    budget = SlotBudget("shop-db:5432", 10, "uid-1")
    assert (budget.group_key, budget.run_key) == (529768486, 901748440)


def test_sessions_beyond_the_budget_are_refused_with_the_names_of_those_that_have_it(database):
    settings = slots_of(database, application_name="extraction/default/orders")
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(closing(connect(settings)))
        with pytest.raises(SourceBusy, match=r"budget shop of 3 .* used up: by extraction/default/orders ×3") as busy:
            connect(settings)
        assert "limits.maxConnections" in str(busy.value)
        with closing(connect(slots_of(database, group="another"))):
            pass
    free_again(database)
    with closing(connect(settings)):
        pass


def test_a_slot_outlives_transactions_and_goes_with_the_session(database):
    settings = slots_of(database, limit=1)
    with closing(connect(settings)) as connection:
        for end in ("COMMIT", "ROLLBACK"):
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connection.execute(end)
        with pytest.raises(SourceBusy):
            connect(settings)
        database.execute("SELECT pg_terminate_backend(%s, 5000)", connection.info.backend_pid)
    with closing(connect(settings)):
        pass


def test_databases_of_one_server_share_the_budget_whatever_the_role(database):
    role = database.role("plain", password="p")
    here = slots_of(database, limit=2, user=role, password="p")
    there = slots_of(database, limit=2, database="postgres")
    with closing(connect(here)), closing(connect(there)):
        for settings in (here, there):
            with pytest.raises(SourceBusy, match="extraction ×2"):
                connect(settings)
    free_again(database)


def test_one_slot_taken_in_two_databases_at_the_same_moment_is_given_back(database):
    budget = SlotBudget("shop", 2)
    here, there = slots_of(database, limit=2), slots_of(database, limit=2, database="postgres")
    with closing(connect(here)) as one:
        # As if another had looked before us, and taken its slot after us: the same one.
        taken = one.execute("SELECT objid::int4 FROM pg_locks WHERE classid::int8 = %s", [budget.group_key]).fetchone()
        with closing(psycopg.connect(database.server.conninfo("postgres"), autocommit=True)) as raw:
            raw.execute("SELECT pg_advisory_lock(%s, %s)", [budget.group_key, *taken])
            with closing(connect(there)) as other:
                free = {0, 1} - {taken[0]}
                query = "SELECT objid::int4 FROM pg_locks WHERE classid::int8 = %s AND pid = %s"
                found = other.execute(query, [budget.group_key, other.info.backend_pid]).fetchall()
                assert {slot for (slot,) in found} == free


def test_a_holder_takes_two_or_none_and_offers_one_to_its_run_alone(database):
    mine, other = slots_of(database, limit=4, run="mine"), slots_of(database, limit=4, run="other")
    with closing(connect(mine, Claim.HOLD)), closing(connect(other, Claim.HOLD)) as holder:
        for claim in (Claim.HOLD, Claim.SPARE):
            with pytest.raises(SourceBusy):
                connect(mine, claim)
        for settings in (mine, other):
            with closing(connect(settings, Claim.WORK)), pytest.raises(SourceBusy):
                connect(settings, Claim.WORK)
        with pytest.raises(SourceBusy):
            connect(slots_of(database, limit=4, run="a third"))
        # Without its holder a reader keeps its slot; what was offered besides is free.
        with closing(connect(other)):
            holder.close()
            key = SlotBudget("shop", 4).group_key
            query = "SELECT count(DISTINCT objid) FROM pg_locks WHERE classid::int8 = %s"
            wait_until(lambda: database.execute(query, key) == [(3,)])
            with closing(connect(mine)), pytest.raises(SourceBusy):
                connect(slots_of(database, limit=4, run="x"), Claim.HOLD)
    free_again(database)


def test_a_limit_under_which_no_job_can_run_is_refused(database18):
    with pytest.raises(InvalidManifest, match=r"limits.maxConnections is 1.*Set it to 2"):
        connect(slots_of(database18, limit=1), Claim.HOLD)


def test_a_role_with_fewer_connections_has_fewer_slots_so_that_every_holder_finds_one_to_read_with(database):
    role = database.role("few", password="p")
    database.execute(f"ALTER ROLE {role} CONNECTION LIMIT 3")
    settings = slots_of(database, limit=10, user=role, password="p", run="mine")
    other = slots_of(database, limit=10, user=role, password="p", run="other")
    with closing(connect(settings, Claim.HOLD)):
        with pytest.raises(SourceBusy, match="shop of 3 connections"):
            connect(other, Claim.HOLD)
        with closing(connect(settings)), closing(connect(settings)):
            pass
        # A superuser isn't bound by it.
        with closing(connect(slots_of(database, limit=10, run="third"), Claim.HOLD)):
            pass
    free_again(database)
    database.execute(f"ALTER ROLE {role} CONNECTION LIMIT 1")
    with pytest.raises(InvalidManifest, match="lets this role have 1 connections"):
        connect(settings, Claim.HOLD)


def test_without_a_slot_to_ask_from_a_silent_session_is_not_suspected(database18):
    settings = slots_of(database18, limit=2)
    with closing(connect(settings)) as reader, closing(connect(settings)):
        assert ask_server(settings, reader.info.backend_pid) is BackendState.UNASKED


def test_slots_are_taken_by_a_role_that_may_do_nothing(database):
    role = database.role("nothing", password="p")
    database.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on")
    settings = slots_of(database, user=role, password="p", run="r")
    with closing(connect(settings, Claim.HOLD)), closing(connect(settings)):
        pass


# Waiting ----------------------------------------------------------------------------------------------------------


def test_waiting_says_why_once_and_goes_on_until_it_is_ended():
    said, waits, answers = [], [], [SourceBusy("full"), SourceBusy("full"), SourceBusy("fuller"), None]

    def call():
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        return "done"

    assert patiently(call, wait=waits.append, say=said.append) == "done"
    assert said == ["full", "fuller"]
    assert len(waits) == 3

    def stop(_):
        raise KeyboardInterrupt

    def busy():
        raise SourceBusy("full")

    with pytest.raises(KeyboardInterrupt):
        patiently(busy, wait=stop, say=said.append)


def test_waits_grow_to_a_few_seconds_and_differ():
    assert back_off(0, lambda: 0.0) == 0.125
    assert back_off(3, lambda: 0.5) == 2.0
    assert back_off(10_000, lambda: 1.0) == 6.0
    assert len({back_off(2) for _ in range(10)}) > 1


# Many jobs at once ------------------------------------------------------------------------------------------------

JOBS = 10
TESTS = str(Path(__file__).parents[2])
COUNT = """
SELECT count(*) FILTER (WHERE backend_start < clock_timestamp() - interval '1 second'),
       count(*) FILTER (WHERE l.pid IS NOT NULL)
FROM pg_stat_activity AS a
LEFT JOIN (SELECT DISTINCT pid FROM pg_locks WHERE locktype = 'advisory' AND classid::int8 = %s) AS l USING (pid)
WHERE application_name = %s
"""


def test_jobs_of_ten_processes_share_every_budget_from_two_up_and_all_end(database18):
    database18.execute("CREATE TABLE t AS SELECT 1 AS id")
    server, limits = database18.server, [2, 3, 4, 5]
    processes = []
    for number in range(JOBS):
        order = limits[number % 4 :] + limits[: number % 4]  # so that every budget has jobs all the time
        arguments = [server.host, server.port, database18.name, server.user, f"run-{number}", *order]
        process = subprocess.Popen(
            [sys.executable, "-m", "support.busy_jobs", *map(str, arguments)], env=os.environ | {"PYTHONPATH": TESTS},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        process.stdin.write(f"{server.password}\n")
        process.stdin.close()
        processes.append(process)
    most = dict.fromkeys(limits, 0)
    deadline = time.monotonic() + 120
    while any(process.poll() is None for process in processes):
        assert time.monotonic() < deadline, "jobs wait for each other"
        for limit in limits:
            key = SlotBudget(f"busy-{limit}", limit).group_key
            [(old, slots)] = database18.execute(COUNT, key, f"extraction/busy/{limit}")
            assert old <= limit, "a session stays without a slot"
            assert slots <= limit
            most[limit] = max(most[limit], slots)
        time.sleep(0.1)
    ended = [(process.wait(), sorted(process.stdout.read().split())) for process in processes]
    assert ended == [(0, sorted(["done"] * 4 + list(map(str, limits))))] * JOBS
    assert min(most.values()) >= 2  # it was looked while they worked
