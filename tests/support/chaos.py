"""A job's pods as processes, and from a seed what kills, stops or cuts off any part of them; no cluster is needed.

The driver does what the operator and the Job controller do: it starts a lead and workers, starts workers again that
ended badly, believes stopped ones dead, cleans up after an attempt that failed, and begins another.
"""

import contextlib
import random
import signal
import subprocess
import time

import psycopg

from extraction_contract.messages import PublishMessage
from support.databases import wait_until
from support.faults import Fault, Happened, Run, Storm, schedule
from support.pods import Pods

HELD = "state LIKE 'idle in%' AND application_name LIKE '%lead-%'"
"""Of sessions: those that keep a snapshot."""
READS = f"NOT ({HELD})"
"""Of sessions: all others."""
ATTEMPTS = 6
TRIES = 5
STORM_SECONDS = 4.0
"""In which all faults of an attempt begin, counted from the start of its workers: it has to be read for longer."""


class Chaos:
    """One run. ``store`` is the S3 server's process, ``server`` the source's; ``most`` bounds an attempt's faults."""

    def __init__(self, pods: Pods, server, store: subprocess.Popen, seed: int, most: int = 3) -> None:
        self.pods, self.server, self.store = pods, server, store
        self.seed, self.most = seed, most
        self.random = random.Random(seed)
        self.attempts = 0
        self.published: PublishMessage | None = None
        self.reasons: list[str] = []
        self.happened: list[Happened] = []
        self.hold: subprocess.Popen | None = None
        self.publish: subprocess.Popen | None = None
        self.workers: dict[int, subprocess.Popen] = {}
        self.stopped: list[subprocess.Popen] = []
        self.numbers = iter(range(10_000))
        self.digest = ""
        """Of the attempt's plan."""

    def run(self) -> Run:
        """Run the job to its end, and clean up after it."""
        began = time.monotonic()
        while self.published is None and self.attempts < ATTEMPTS:
            self.attempts += 1
            self.pods.run_id = f"uid-{self.seed}-{self.attempts}"
            self.attempt()
        reasons = [reason for reason in self.reasons if reason]
        return Run("job", self.seed, self.published is not None, reasons, self.attempts, time.monotonic() - began)

    def attempt(self) -> None:
        """Run one attempt; then clean up, which finds out whether it was published."""
        lead = f"lead-{next(self.numbers)}"
        self.hold, plan = self.pods.start("hold", lead), self.pods.start("plan", lead)
        if self.wait(plan) == 0:
            # Now, and not when a worker is started again: the store may be silent then, and nobody would wake it.
            self.digest = self.pods.plan().plan_digest()
            self.publish = self.pods.start("publish", lead)
            self.workers = {index: self.worker(index) for index in range(self.pods.bundles)}
            # The last attempt is left alone.
            count = self.random.randint(1, self.most) if self.most and self.attempts < ATTEMPTS - 1 else 0
            faults = self.faults()
            storm = Storm(faults, schedule(f"{self.seed}/{self.attempts}", faults, count, STORM_SECONDS))
            self.go_on(lead, storm)
            self.happened += storm.happened
            self.told("publish", lead)
        else:
            self.told("plan", lead)
        self.hold.terminate()
        self.wait(self.hold)
        cleaner = f"clean-{next(self.numbers)}"
        for _ in range(TRIES):
            if self.wait(self.pods.start("clean", cleaner)) == 0:
                break
        message = self.pods.last_words("clean", cleaner)
        if isinstance(message, PublishMessage):
            self.published = message

    def go_on(self, lead: str, storm: Storm) -> None:
        """Let pods work and die, until the publisher has ended."""
        tries = dict.fromkeys(self.workers, 1)
        began = time.monotonic()
        while self.publish.poll() is None:
            assert time.monotonic() < began + 300, "the attempt hangs"
            storm.advance(time.monotonic() - began)
            if self.hold.poll() is not None:
                # The kubelet starts a sidecar again.
                self.hold.communicate()
                self.hold = self.pods.start("hold", lead)
            for index, process in list(self.workers.items()):
                if process.poll() is None:
                    continue
                code = self.wait(process)
                if code == 0 or code in range(10, 40) or tries[index] >= TRIES:
                    del self.workers[index]
                    if code:
                        # The Job has failed: the operator stops the lead.
                        self.publish.terminate()
                    continue
                tries[index] += 1
                self.workers[index] = self.worker(index)
            time.sleep(0.05)
        storm.end()
        self.wait(self.publish)
        for process in self.workers.values():
            process.terminate()
            self.wait(process)
        for process in self.stopped:
            # Zombies that came to life again, and found that nobody waits for them.
            process.kill()
            process.communicate()
        self.stopped.clear()

    def worker(self, index: int) -> subprocess.Popen:
        environment = {"JOB_COMPLETION_INDEX": index, "EXTRACTION_PLAN_DIGEST": self.digest}
        return self.pods.start("work", f"work-{index}-{next(self.numbers)}", **environment)

    # What goes wrong ----------------------------------------------------------------------------------------------

    def faults(self) -> list[Fault]:
        return [
            Fault("kill worker", lambda draw: self.signal_worker(draw, signal.SIGKILL)),
            Fault("end worker", lambda draw: self.signal_worker(draw, signal.SIGTERM)),
            Fault("stop worker", self.stop_worker, self.wake_workers, 6),
            Fault("kill holder", lambda _: kill(self.hold, "holder")),
            Fault("kill publisher", lambda _: kill(self.publish, "publisher")),
            Fault("cut session", lambda draw: cut_session(self.server, draw, READS)),
            Fault("cut holder", lambda draw: cut_session(self.server, draw, HELD)),
            Fault("silence store", lambda _: self.silence_store(), lambda: self.store.send_signal(signal.SIGCONT), 2),
            Fault("restart source", lambda draw: stop_server(self.server, draw), self.server.start, 1),
        ]

    def victim(self, draw: random.Random) -> int | None:
        running = [index for index, process in sorted(self.workers.items()) if process.poll() is None]
        return draw.choice(running) if running else None

    def signal_worker(self, draw: random.Random, what: signal.Signals) -> str:
        victim = self.victim(draw)
        if victim is None:
            return ""
        self.workers[victim].send_signal(what)
        return f"work {victim}"

    def stop_worker(self, draw: random.Random) -> str:
        victim = self.victim(draw)
        if victim is None:
            return ""
        self.workers[victim].send_signal(signal.SIGSTOP)
        self.stopped.append(self.workers[victim])
        # It is believed dead.
        self.workers[victim] = self.worker(victim)
        return f"work {victim}"

    def wake_workers(self) -> None:
        for process in self.stopped:
            process.send_signal(signal.SIGCONT)

    def silence_store(self) -> str:
        self.store.send_signal(signal.SIGSTOP)
        return "store"

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
        self.reasons.append(getattr(message, "reason", "") or ("" if message is not None else "Killed"))


def kill(process: subprocess.Popen, name: str) -> str:
    """Kill a process that runs."""
    if process.poll() is not None:
        return ""
    process.kill()
    return name


def cut_session(server, draw: random.Random, condition: str) -> str:
    """Have the server end one session of a job; a server that is away has none."""
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(server.conninfo(), autocommit=True) as admin:
        rows = admin.execute(
            "SELECT pid, application_name FROM pg_stat_activity "
            f"WHERE application_name LIKE 'extraction/%' AND {condition} ORDER BY application_name, pid"
        ).fetchall()
        if rows:
            pid, name = draw.choice(rows)
            admin.execute("SELECT pg_terminate_backend(%s)", [pid])
            return name.removeprefix("extraction/")
    return ""


def stop_server(server, draw: random.Random) -> str:
    """Shut a server down, fast or as by a crash."""
    how = draw.choice([signal.SIGINT, signal.SIGQUIT])
    server.stop(how)
    return "fast shutdown" if how is signal.SIGINT else "crash"


def wait_for_quiet(server) -> None:
    """Wait until no session of a job is left."""
    with psycopg.connect(server.conninfo(), autocommit=True) as admin:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'extraction/%'"
        wait_until(lambda: admin.execute(query).fetchone() == (0,), 60)
