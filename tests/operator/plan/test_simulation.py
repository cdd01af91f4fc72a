"""The planner in a hostile world: stale views, lost replies, restarts, two leaders, pods that end in any way.

Whatever happens, what must never be isn't (the model checks that at every write), and once the world is fair the job
comes to an end. ``EXTRACTION_EXAMPLES`` asks for more worlds than CI looks at.
"""

import os
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from extraction_operator.plan.facts import FINAL
from extraction_operator.plan.job import decide_job
from extraction_operator.plan.values import Pod, Role
from support.api_model import Kind
from support.cluster_model import OUTCOMES, Cluster
from support.operator_model import FAULTS, KINDS, Operator
from support.plan_world import SETTINGS, make_source, seconds

FAULT_LISTS = st.lists(st.sampled_from(["", "", *FAULTS]), max_size=3)
INDEX = st.integers(0, 7)
ROLES = st.sampled_from([Role.LEAD, Role.WORK, Role.CLEAN, None])
STEPS_TO_THE_END = 600
EXAMPLES = int(os.environ.get("EXTRACTION_EXAMPLES", "0"))


class HostileWorld(RuleBasedStateMachine):
    """One job, two operators, and everything that can go wrong."""

    @initialize(
        preconditions=st.booleans(),
        consistency=st.sampled_from(["Snapshot", "Snapshot", "PerPartition"]),
        on_loss=st.sampled_from(["Fail", "Restart", "Degrade"]),
        rounds=st.integers(0, 10),
        source_returns=st.booleans(),
        then=st.sampled_from(["", "", "", "", "", "cancel", "delete", "child"]),
        queue=st.sampled_from(["", "", "night"]),
    )
    def begin(
        self, preconditions: bool, consistency: str, on_loss: str, rounds: int, source_returns: bool, then: str,
        queue: str,
    ) -> None:  # fmt: skip
        self.cluster = Cluster(
            queue, consistency=consistency, snapshot={"onLoss": on_loss}, activeDeadlineSeconds=5000,
            ttlSecondsAfterFinished=100,
        )  # fmt: skip
        self.source_returns = source_returns
        self.replicas = [Operator(self.cluster, preconditions=preconditions) for _ in range(2)]
        self.replicas[1].leads = False
        for place in range(rounds):
            self.proceed((None, Role.LEAD, None, Role.WORK)[place % 4], "good")
        if then:
            self.user_acts_while_an_answer_is_lost(then)

    @property
    def leader(self) -> Operator:
        return next(found for found in self.replicas if found.leads)

    # What goes as it should -------------------------------------------------------------------------------------------

    @rule(role=ROLES, outcome=st.sampled_from(["good", "good", "good", *OUTCOMES]))
    def proceed(self, role: Role | None, outcome: str) -> None:
        self.kueue_gives_quota()
        self.controllers()
        for name in [pod.name for pod in self.cluster.pods.values() if pod.role is role]:
            self.cluster.run_pod(name, outcome)
        for kind in KINDS:
            self.leader.follow(kind)
        self.leader.step()
        self.leader.flush()

    @rule(role=ROLES)
    def go_well(self, role: Role | None) -> None:
        self.proceed(role, "good")

    @rule()
    def kueue_gives_quota(self) -> None:
        for name in list(self.cluster.children):
            self.cluster.set_quota(name, given=True)

    @rule(index=INDEX)
    def kueue_takes_quota(self, index: int) -> None:
        if names := sorted(self.cluster.children):
            self.cluster.set_quota(names[index % len(names)], given=False)

    @rule()
    def controllers(self) -> None:
        self.cluster.collect()
        for name in list(self.cluster.children):
            self.cluster.sync(name)

    @rule(passing=st.sampled_from([0.5, 3, 6, 10, 40, 700]))
    def time_passes(self, passing: float) -> None:
        # Nobody is slower than that, but for nodes that are silent.
        if passing >= 10:
            self.controllers()
        self.cluster.now += seconds(passing)
        for pod in list(self.cluster.pods.values()):
            if pod.deleting_since is not None and pod.deleting_since <= self.cluster.now:
                self.cluster.run_pod(pod.name, "good")
            if pod.node in self.cluster.silent and pod.created + timedelta(seconds=60) < self.cluster.now:
                self.cluster.delete_pod(pod.name, "DeletionByTaintManager")

    # The operators ----------------------------------------------------------------------------------------------------

    @rule(who=st.integers(0, 1), faults=FAULT_LISTS)
    def operator_decides(self, who: int, faults: list[str]) -> None:
        self.replicas[who].step(faults)

    @rule(who=st.integers(0, 1), faults=FAULT_LISTS)
    def operator_flushes(self, who: int, faults: list[str]) -> None:
        self.replicas[who].flush(faults)

    @rule(kind=st.sampled_from(KINDS), number=st.integers(1, 5), lose=st.booleans())
    def events_arrive_or_are_lost(self, kind: Kind, number: int, lose: bool) -> None:
        self.leader.follow(kind, number, lose=lose)

    @rule(what=st.sampled_from(["lists", "restarts", "is deposed"]))
    def leader_begins_anew(self, what: str) -> None:
        if what == "lists":
            self.leader.relist()
            return
        if what == "is deposed":
            for replica in self.replicas:
                replica.leads = not replica.leads
        self.leader.restart()

    # Pods, nodes, controllers -----------------------------------------------------------------------------------------

    @rule(index=INDEX, outcome=st.sampled_from(OUTCOMES))
    def a_pod_goes_on(self, index: int, outcome: str) -> None:
        if names := sorted(self.cluster.pods):
            self.cluster.run_pod(names[index % len(names)], outcome)

    @rule(index=INDEX)
    def one_job_is_synced(self, index: int) -> None:
        if names := sorted(self.cluster.children):
            self.cluster.sync(names[index % len(names)])

    @rule(index=INDEX, what=st.sampled_from(["evicted", "killed", "interrupted", "doubled", "lost", "back", "resting"]))
    def nature_strikes(self, index: int, what: str) -> None:
        cluster, names = self.cluster, sorted(self.cluster.pods)
        if what == "back":
            cluster.silent.clear()
            cluster.resting.clear()
        elif what == "resting":
            cluster.resting |= {child.uid for child in cluster.children.values() if child.role is Role.WORK}
        elif names:
            pod = cluster.pods[names[index % len(names)]]
            if what == "lost":
                cluster.silent.add(pod.node)
            elif what == "doubled":
                self.double(pod)
            else:
                cluster.delete_pod(pod.name, "EvictionByEvictionAPI")
                cluster.run_pod(pod.name, {"evicted": "good", "killed": "silent"}.get(what, "interrupted"))

    def double(self, pod: Pod) -> None:
        """Have the Job controller make a pod twice."""
        job = self.cluster.children.get(pod.job)
        if job is not None and job.uid == pod.job_uid and not (job.suspended or job.ending or job.deleting):
            self.cluster.start_pod(job, pod.index)
            self.cluster.sync(job.name)

    # Users ------------------------------------------------------------------------------------------------------------

    @rule(what=st.sampled_from(["suspend", "resume", "resume", "scale", "scale back", "retry"]))
    def user_changes_the_job(self, what: str) -> None:
        if (job := self.cluster.job) is not None:
            changes = {
                "suspend": {"suspend": True}, "resume": {"suspend": False}, "scale": {"parallelism": 3},
                "scale back": {"parallelism": 1}, "retry": {"retry": job.spec.retry + 1},
            }  # fmt: skip
            self.cluster.change_spec(**changes[what])

    @rule(
        what=st.sampled_from(["child", "child", "cancel", "delete", "broken", "gone", "there"]), index=st.integers(0, 3)
    )
    def user_gets_in_the_way(self, what: str, index: int) -> None:
        cluster, names = self.cluster, sorted(self.cluster.children)
        if what == "child" and names:
            cluster.delete(names[index % len(names)])
        elif what in {"cancel", "delete", "gone"} and index:
            return  # not that often
        elif what == "cancel":
            cluster.change_spec(cancel=True)
        elif what == "delete":
            cluster.delete_job()
        elif what == "gone":
            cluster.drop("source", "shop")
        elif what in {"broken", "there"}:
            cluster.put("source", "shop", make_source(ready=what == "there"))

    @rule(what=st.sampled_from(["child", "retry"]))
    def user_acts_while_an_answer_is_lost(self, what: str) -> None:
        """What was written last isn't seen yet when the user's change is."""
        self.leader.step(["lost"])
        if what == "retry":
            self.user_changes_the_job(what)
        else:
            self.user_gets_in_the_way(what, 0)
        self.leader.follow("job")
        self.leader.step()
        self.leader.step()

    @rule(used=st.sampled_from([0, 5, 9]))
    def other_jobs_use_connections(self, used: int) -> None:
        for replica in self.replicas:
            replica.rivals = used
            replica.awake = True

    # What must hold ---------------------------------------------------------------------------------------------------

    @invariant()
    def there_is_one_worker_job(self) -> None:
        if not hasattr(self, "cluster"):
            return
        work = [c.attempt for c in self.cluster.children.values() if c.role is Role.WORK and not c.deleting]
        assert len(work) == len(set(work))

    def teardown(self) -> None:
        """Let the world be fair: the job ends, nothing is left, and nothing more is done."""
        if not hasattr(self, "cluster"):
            return
        cluster, operator = self.cluster, self.leader
        cluster.silent.clear()
        cluster.resting.clear()
        if self.source_returns:
            cluster.put("source", "shop", make_source())
            cluster.change_spec(suspend=False)
        operator.rivals = 0
        operator.relist()
        still = 0
        for _ in range(STEPS_TO_THE_END):
            before = len(cluster.log)
            self.kueue_gives_quota()
            self.controllers()
            for name in list(cluster.pods):
                cluster.run_pod(name)
            for kind in KINDS:
                operator.follow(kind)
            if operator.awake or (operator.again is not None and operator.again <= cluster.now):
                operator.step()
            operator.flush()
            if len(cluster.log) != before:
                still = 0
                continue
            still += 1
            if not operator.awake and operator.again is None:
                break
            assert still < 50, "nothing comes of deciding"
            if not operator.awake and operator.again is not None:
                cluster.now = max(cluster.now, operator.again)
        else:
            raise AssertionError("it takes too long")
        self.check_the_end(operator)

    def check_the_end(self, operator: Operator) -> None:
        cluster, job = self.cluster, self.cluster.job
        assert not [child for child in cluster.children.values() if child.role is not Role.CLEAN or job is not None]
        if job is None:
            cluster.check_nothing_is_left()
            return
        if job.status.phase not in FINAL:
            assert job.status.phase == "Pending"
            reason = next(c.reason for c in job.status.conditions if c.type == "Ready")
            assert reason in {"SourceNotFound", "SourceNotReady", "Suspended"}
            assert not cluster.pods
            return
        cluster.check_nothing_is_left()
        seen = operator.observe()
        assert seen is not None
        decision = decide_job(seen, SETTINGS)
        assert (decision.status, decision.actions, decision.events) == (job.status, (), ())


HostileWorld.TestCase.settings = settings(
    max_examples=EXAMPLES or 150,
    stateful_step_count=50,
    deadline=None,
    derandomize=not EXAMPLES,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
TestHostileWorld = HostileWorld.TestCase
