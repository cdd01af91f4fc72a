"""Several replicas, one leader: not one write of another, whatever happens to it."""

import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from e2e.support.api_server import ApiServer, Write
from e2e.support.replica import Link, Replica, wait_for

Start = Callable[..., Replica]

SOURCE = {
    "apiVersion": "extraction-operator.io/v1alpha1", "kind": "DataSource",
    "spec": {
        "type": "PostgreSQL", "connection": {"host": "nowhere", "database": "none"},
        "credentialsSecretRef": {"name": "none"},
    },
}  # fmt: skip


@pytest.fixture
def namespace(api: ApiServer) -> str:
    """A namespace of the test's own."""
    return api.namespace()


@contextlib.contextmanager
def always_something_to_do(api: ApiServer, namespace: str) -> Iterator[None]:
    """Declare sources all the time, so that a leader never stops writing."""
    path = f"/apis/extraction-operator.io/v1alpha1/namespaces/{namespace}/datasources"
    ending = threading.Event()

    def declare() -> None:
        for number in itertools.count():
            api.call("POST", path, SOURCE | {"metadata": {"name": f"source-{number}"}})
            if ending.wait(0.05):
                return

    thread = threading.Thread(target=declare)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def writes_of(api: ApiServer, user: str, namespace: str) -> list[Write]:
    """Return the writes of a replica, but for those to the Lease: candidates make them."""
    return [
        write for write in api.writes()
        if write.user == user and write.namespace == namespace and write.resource != "leases"
    ]  # fmt: skip


def wait_for_write(api: ApiServer, user: str, namespace: str, seconds: float = 20) -> Write:
    """Wait until a replica writes; return its first write."""
    wait_for(lambda: bool(writes_of(api, user, namespace)), f"a write of {user}", seconds)
    return writes_of(api, user, namespace)[0]


def assert_one_after_the_other(api: ApiServer, namespace: str) -> None:
    """Every write of the first leader came in before every write of the second."""
    first, second = (writes_of(api, user, namespace) for user in ("operator-a", "operator-b"))
    assert first
    assert second
    assert max(write.at for write in first) < min(write.at for write in second)
    assert {write.agent.partition("/")[0] for write in (*first, *second)} == {"extraction-operator"}


def test_a_standby_is_ready_and_writes_nothing(api: ApiServer, namespace: str, replica: Start) -> None:
    with always_something_to_do(api, namespace):
        leader = replica("operator-a", namespace)
        leader.wait_to_lead()
        standby = replica("operator-b", namespace)
        standby.wait_until("Everything is listed.")
        wait_for_write(api, "operator-a", namespace)
        count = len(writes_of(api, "operator-a", namespace))
        wait_for(lambda: len(writes_of(api, "operator-a", namespace)) > count + 50, "50 writes", 20)
    assert not writes_of(api, "operator-b", namespace)


def test_a_killed_leader_is_followed_within_15_seconds(api: ApiServer, namespace: str, replica: Start) -> None:
    with always_something_to_do(api, namespace):
        leader = replica("operator-a", namespace)
        leader.wait_to_lead()
        replica("operator-b", namespace).wait_until("Everything is listed.")
        wait_for_write(api, "operator-a", namespace)
        leader.signal(signal.SIGKILL)
        killed = time.time()
        first = wait_for_write(api, "operator-b", namespace)
    assert first.at - killed < 15
    assert_one_after_the_other(api, namespace)


def test_a_leader_that_is_told_to_end_hands_over_at_once(api: ApiServer, namespace: str, replica: Start) -> None:
    with always_something_to_do(api, namespace):
        leader = replica("operator-a", namespace)
        leader.wait_to_lead()
        replica("operator-b", namespace).wait_until("Everything is listed.")
        wait_for_write(api, "operator-a", namespace)
        leader.signal(signal.SIGTERM)
        told = time.time()
        assert leader.wait_for_end(5) == 0
        first = wait_for_write(api, "operator-b", namespace)
    assert first.at - told < 8
    assert_one_after_the_other(api, namespace)


def test_a_leader_that_was_stopped_for_30_seconds_never_writes_again(
    api: ApiServer, namespace: str, replica: Start
) -> None:
    with always_something_to_do(api, namespace):
        leader = replica("operator-a", namespace)
        leader.wait_to_lead()
        replica("operator-b", namespace).wait_until("Everything is listed.")
        wait_for_write(api, "operator-a", namespace)
        leader.signal(signal.SIGSTOP)
        stopped = time.time()
        wait_for_write(api, "operator-b", namespace)
        wait_for(lambda: time.time() - stopped > 30, "30 seconds to pass", 31)
        leader.signal(signal.SIGCONT)
        # By the kernel, before it could run another instruction.
        assert leader.wait_for_end(5) == -signal.SIGALRM
        count = len(writes_of(api, "operator-b", namespace))
        wait_for(lambda: len(writes_of(api, "operator-b", namespace)) > count + 50, "50 more writes", 20)
    assert max(write.at for write in writes_of(api, "operator-a", namespace)) < stopped + 1
    assert_one_after_the_other(api, namespace)


def test_a_leader_that_hears_nothing_any_more_gives_up_before_another_begins(
    api: ApiServer, namespace: str, replica: Start
) -> None:
    link = Link(api.port)
    with contextlib.closing(link), always_something_to_do(api, namespace):
        leader = replica("operator-a", namespace, port=link.port)
        leader.wait_to_lead()
        replica("operator-b", namespace).wait_until("Everything is listed.")
        wait_for_write(api, "operator-a", namespace)
        link.cut()
        cut = time.time()
        assert leader.wait_for_end(9) != 0
        gave_up = time.time()
        first = wait_for_write(api, "operator-b", namespace)
    assert gave_up < first.at
    assert first.at - cut < 15
    assert_one_after_the_other(api, namespace)
