"""What goes wrong in a cluster: each fault with its name, what it does, and how it is healed.

Who is hit is drawn from those who are there at that moment. Where nobody is, nothing happens.
"""

import contextlib
import json
import os
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from e2e.chaos.world import World
from e2e.support.api import Object
from e2e.support.cluster import Cluster, Refused
from e2e.support.processes import process_of
from support.chaos import HELD, READS, cut_session, stop_server
from support.faults import Fault

Choose = Callable[[random.Random], Object | None]


def faults_of(world: World, longest: float) -> list[Fault]:
    """Return every fault that this world knows; none lasts longer than so many seconds."""
    found = [*_pods(world), *_operator(world), *_servers(world), *_node(world)]
    return [replace(fault, longest=min(fault.longest, longest)) for fault in found]


def _pods(world: World) -> list[Fault]:
    def worker(draw: random.Random) -> Object | None:
        return _one(draw, world.pods(role="work"))

    def lead(draw: random.Random) -> Object | None:
        return _one(draw, world.pods(role="lead"))

    frozen = _Frozen()
    found = [
        Fault("delete worker", lambda draw: _delete(world.jobs, worker(draw))),
        Fault("delete worker at once", lambda draw: _delete(world.jobs, worker(draw), "--grace-period=0", "--force")),
        Fault("evict worker", lambda draw: _evict(world.jobs, worker(draw))),
        Fault("delete lead", lambda draw: _delete(world.jobs, lead(draw))),
    ]
    if world.stand_in is not None:
        found += [
            Fault("kill worker", lambda draw: _kill(worker(draw), "work")),
            Fault("kill holder", lambda draw: _kill(lead(draw), "hold")),
            Fault("kill publisher", lambda draw: _kill(lead(draw), "publish")),
            Fault("freeze worker", lambda draw: frozen.freeze(worker(draw), "work"), frozen.thaw, 8),
        ]
    return found


def _operator(world: World) -> list[Fault]:
    def replica(draw: random.Random) -> Object | None:
        return _one(draw, world.replicas())

    frozen = _Frozen()
    found = [
        Fault(
            "delete leader at once", lambda _: _delete(world.operator, world.leader(), "--grace-period=0", "--force")
        ),
        Fault("delete replica", lambda draw: _delete(world.operator, replica(draw))),
    ]
    if world.stand_in is not None:
        found += [
            Fault("kill leader", lambda _: _kill(world.leader(), "run")),
            # Longer than it may lead without renewing.
            Fault("freeze leader", lambda _: frozen.freeze(world.leader(), "run"), frozen.thaw, 14),
        ]
    return found


def _servers(world: World) -> list[Fault]:
    source, redis, record = world.source.server, world.redis, world.record.server
    return [
        Fault("cut session", lambda draw: cut_session(source, draw, READS)),
        Fault("cut holder", lambda draw: cut_session(source, draw, HELD)),
        Fault("restart source", lambda draw: stop_server(source, draw), source.start, 2),
        Fault("crash store", lambda _: _said("store", world.gate.shut), world.gate.open, 4),
        Fault("hang store", lambda _: _said("store", world.gate.hold), world.gate.let_go, 4),
        Fault("crash Redis", lambda _: _said("Redis", redis.kill), redis.start, 6),
        Fault("stop record", lambda draw: stop_server(record, draw), record.start, 6),
    ]


def _node(world: World) -> list[Fault]:
    node = world.stand_in
    if node is None:
        return []
    return [
        Fault("silence kubelet", lambda _: _said("kubelet", node.silence_kubelet), node.wake_kubelet, 30),
        Fault("crash API server", lambda _: _said("kube-apiserver", lambda: node.crash("kube-apiserver"))),
    ]


def _one(draw: random.Random, pods: list[Object]) -> Object | None:
    return draw.choice(pods) if pods else None


def _name(pod: Object) -> str:
    return str(pod["metadata"]["name"])


def _said(name: str, act: Callable[[], object]) -> str:
    act()
    return name


def _delete(namespace: Cluster, pod: Object | None, *options: str) -> str:
    if pod is None:
        return ""
    with contextlib.suppress(Refused):
        namespace.kubectl("delete", "pod", _name(pod), "--wait=false", *options)
        return _name(pod)
    return ""


def _evict(namespace: Cluster, pod: Object | None) -> str:
    if pod is None:
        return ""
    body = {
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": _name(pod), "namespace": namespace.namespace},
    }  # fmt: skip
    path = f"/api/v1/namespaces/{namespace.namespace}/pods/{_name(pod)}/eviction"
    with contextlib.suppress(Refused):
        namespace.kubectl("create", "--raw", path, "--filename", "-", stdin=json.dumps(body))
        return _name(pod)
    return ""


def _kill(pod: Object | None, word: str) -> str:
    """Kill the process of a container; the kubelet sees it end."""
    process = _process(pod, word)
    if pod is None or process is None:
        return ""
    with contextlib.suppress(ProcessLookupError), contextlib.closing(_Handle(process)) as handle:
        handle.send(signal.SIGKILL)
        return _name(pod)
    return ""


def _process(pod: Object | None, word: str) -> Path | None:
    return process_of(pod["metadata"]["uid"], word) if pod is not None else None


class _Handle:
    """A process that was found in /proc, and no other that got its number later."""

    def __init__(self, process: Path) -> None:
        self._file = os.pidfd_open(int(process.name))

    def send(self, what: signal.Signals) -> None:
        signal.pidfd_send_signal(self._file, what)

    def close(self) -> None:
        os.close(self._file)


class _Frozen:
    """Processes that were stopped where they are, and go on later: zombies, perhaps."""

    def __init__(self) -> None:
        self._handles: list[_Handle] = []

    def freeze(self, pod: Object | None, word: str) -> str:
        process = _process(pod, word)
        if pod is None or process is None:
            return ""
        with contextlib.suppress(ProcessLookupError):
            handle = _Handle(process)
            self._handles.append(handle)
            handle.send(signal.SIGSTOP)
            return _name(pod)
        return ""

    def thaw(self) -> None:
        for handle in self._handles:
            # It may have been killed meanwhile.
            with contextlib.suppress(ProcessLookupError):
                handle.send(signal.SIGCONT)
            handle.close()
        self._handles.clear()
