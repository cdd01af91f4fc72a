"""A job's pods as processes, and from a seed what kills, stops or cuts off any part of them; no cluster is needed.

The driver does what the operator and the Job controller do: it starts a lead and workers, starts workers again that
ended badly, believes stopped ones dead, cleans up after an attempt that failed, and begins another.
"""

import random
import signal
import subprocess
import time
from dataclasses import dataclass, field

import psycopg

from extraction_contract.messages import PublishMessage
from support.databases import wait_until
from support.pods import Pods

ATTEMPTS = 6
TRIES = 5
FAULTS = (
    "kill worker", "end worker", "stop worker", "kill holder", "kill publisher", "cut session", "cut holder",
    "silence store", "restart source",
)  # fmt: skip


@dataclass
class Outcome:
    """How a run ended."""

    seed: int
    faults: list[str] = field(default_factory=list)
    attempts: int = 0
    published: PublishMessage | None = None
    reasons: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Chaos:
    """One run. ``store`` is the S3 server's process, ``server`` the source's; ``most`` bounds the faults."""

    def __init__(self, pods: Pods, server, store: subprocess.Popen, seed: int, most: int = 3) -> None:
        self.pods, self.server, self.store = pods, server, store
        self.random = random.Random(seed)
        self.outcome = Outcome(seed)
        self.most = most
        self.stopped: list[subprocess.Popen] = []
        self.numbers = iter(range(10_000))

    def run(self) -> Outcome:
        """Run the job to its end, and clean up after it."""
        began = time.monotonic()
        while self.outcome.published is None and self.outcome.attempts < ATTEMPTS:
            self.outcome.attempts += 1
            self.pods.run_id = f"uid-{self.outcome.seed}-{self.outcome.attempts}"
            self.attempt()
            for process in self.stopped:
                # Zombies come to life again, and find that nobody waits for them.
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.communicate()
            self.stopped.clear()
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    def attempt(self) -> None:
        """Run one attempt; then clean up, which finds out whether it was published."""
        lead = f"lead-{next(self.numbers)}"
        hold, plan = self.pods.start("hold", lead), self.pods.start("plan", lead)
        if self.wait(plan) == 0:
            publish = self.pods.start("publish", lead)
            workers = {index: self.worker(index) for index in range(self.pods.bundles)}
            self.go_on(lead, hold, publish, workers)
            self.told("publish", lead)
        else:
            self.told("plan", lead)
        hold.terminate()
        self.wait(hold)
        cleaner = f"clean-{next(self.numbers)}"
        for _ in range(TRIES):
            if self.wait(self.pods.start("clean", cleaner)) == 0:
                break
        message = self.pods.last_words("clean", cleaner)
        if isinstance(message, PublishMessage):
            self.outcome.published = message

    def go_on(self, lead: str, hold: subprocess.Popen, publish: subprocess.Popen, workers: dict) -> None:
        """Let pods work and die, until the publisher has ended."""
        left = self.random.randint(1, self.most) if self.outcome.attempts < ATTEMPTS - 1 else 0
        tries = dict.fromkeys(workers, 1)
        deadline = time.monotonic() + 300
        due = time.monotonic() + self.random.uniform(0.1, 4)
        while publish.poll() is None:
            assert time.monotonic() < deadline, "the attempt hangs"
            if left and time.monotonic() > due:
                self.strike(self.random.choice(FAULTS), hold, publish, workers)
                left -= 1
                due = time.monotonic() + self.random.uniform(0.1, 4)
            if hold.poll() is not None:
                # The kubelet starts a sidecar again.
                hold.communicate()
                hold = self.pods.start("hold", lead)
            for index, process in list(workers.items()):
                if process.poll() is None:
                    continue
                code = self.wait(process)
                if code == 0 or code in range(10, 40) or tries[index] >= TRIES:
                    del workers[index]
                    if code:
                        # The Job has failed: the operator stops the lead.
                        publish.terminate()
                    continue
                tries[index] += 1
                workers[index] = self.worker(index)
            time.sleep(0.05)
        self.wait(publish)
        for process in workers.values():
            process.terminate()
            self.wait(process)
        hold.terminate()
        self.wait(hold)

    def worker(self, index: int) -> subprocess.Popen:
        return self.pods.start("work", f"work-{index}-{next(self.numbers)}", **self.pods.worker(index))

    def strike(self, fault: str, hold: subprocess.Popen, publish: subprocess.Popen, workers: dict) -> None:
        """Do some harm."""
        self.outcome.faults.append(fault)
        victim = self.random.choice(sorted(workers)) if workers else None
        match fault:
            case "kill worker" | "end worker" if victim is not None:
                workers[victim].send_signal(signal.SIGKILL if fault == "kill worker" else signal.SIGTERM)
            case "stop worker" if victim is not None:
                workers[victim].send_signal(signal.SIGSTOP)
                self.stopped.append(workers[victim])
                workers[victim] = self.worker(victim)
            case "kill holder":
                hold.kill()
            case "kill publisher":
                publish.kill()
            case "cut session" | "cut holder":
                idle = "state LIKE 'idle in%'" if fault == "cut holder" else "true"
                with psycopg.connect(self.server.conninfo(), autocommit=True) as admin:
                    admin.execute(
                        "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity "
                        f"WHERE application_name LIKE 'extraction/%' AND {idle} ORDER BY random() LIMIT 1) AS one"
                    )
            case "silence store":
                self.store.send_signal(signal.SIGSTOP)
                time.sleep(self.random.uniform(0.2, 2))
                self.store.send_signal(signal.SIGCONT)
            case "restart source":
                self.server.stop(self.random.choice([signal.SIGINT, signal.SIGQUIT]))
                self.server.start()

    def wait(self, process: subprocess.Popen) -> int:
        try:
            process.communicate(timeout=200)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise AssertionError(f"{process.args[5]} doesn't end") from None
        return process.returncode

    def told(self, command: str, pod: str) -> None:
        """Keep why a container ended, in its own words."""
        file = self.pods.log_of(command, pod)
        text = file.read_text() if file.exists() else ""
        message = self.pods.last_words(command, pod) if text else None
        self.outcome.reasons.append(getattr(message, "reason", "") or ("" if message is not None else "Killed"))


def wait_for_quiet(server) -> None:
    """Wait until no session of a job is left."""
    with psycopg.connect(server.conninfo(), autocommit=True) as admin:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'extraction/%'"
        wait_until(lambda: admin.execute(query).fetchone() == (0,), 60)
