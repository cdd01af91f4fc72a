"""Process 1 of a node: gives it files and network of its own, then keeps its components running.

It runs in new namespaces for processes, mounts, network, host name and IPC. When it ends, the kernel ends every
process of the node, and with the last of them go its mounts, its firewall rules and its end of the link to the host.
"""

import json
import os
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from e2e.node import network, storage
from e2e.node.commands import run
from e2e.node.state import Inside, Layout, Settings

RESTART_AFTER = 1.0
# Kernel settings are of the whole machine. The kubelet insists on writing these; it gets files of its own instead.
KUBELET_SYSCTLS = {
    "kernel/keys/root_maxbytes": "25000000",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
}
# Set to anything, this keeps the images of new nodes in memory, 1.3 GB for ours: they are loaded in half the time.
IN_MEMORY = "EXTRACTION_NODE_IMAGES_IN_MEMORY"
WAKERS = {signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM}
FUNCTIONS = {"storage": storage.main}


@dataclass(frozen=True)
class Component:
    """A program that shall run: a command line, or the name of one of our own functions."""

    name: str
    command: tuple[str, ...]

    def declare(self, folder: Path) -> None:
        """Declare to the init process, by a file, that this component shall run; it looks there upon SIGHUP."""
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".{self.name}"
        draft.write_text(json.dumps(asdict(self)))
        draft.replace(folder / f"{self.name}.json")


def main(name: str, programs: str) -> None:
    """Run as process 1 of the node."""
    signal.pthread_sigmask(signal.SIG_BLOCK, WAKERS)
    layout = Layout(name)
    print("started", flush=True)
    # We may only go on once we are recorded: otherwise nobody could ever find us to end us.
    if sys.stdin.readline() != "go\n" or not (settings := layout.settings):
        return
    os.setsid()
    _mount(layout, Path(programs))
    socket.sethostname(layout.node_name)
    network.configure_inside(settings)
    _Supervisor(settings).run()


def _mount(layout: Layout, programs: Path) -> None:
    # Volumes of pods with mount propagation need shared mounts; the namespace keeps them from the host.
    run("mount", "--make-rshared", "/")
    binaries = layout.var / Inside.programs.relative_to("/var")
    for folder in (binaries, layout.var / "tmp"):
        folder.mkdir(parents=True, exist_ok=True)
    (layout.var / "tmp").chmod(0o1777)
    run("mount", "--bind", programs, binaries)
    run("mount", "--rbind", layout.var, "/var")
    run("mount", "--bind", "/var/tmp", "/tmp")
    run("mount", "-t", "tmpfs", "-o", "mode=755", "node-run", "/run")
    if os.environ.get(IN_MEMORY):
        Inside.images.mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "tmpfs", "-o", "mode=711", "node-images", Inside.images)
    for key, value in KUBELET_SYSCTLS.items():
        private = Path("/run/sysctl") / key
        private.parent.mkdir(parents=True, exist_ok=True)
        private.write_text(value)
        run("mount", "--bind", private, Path("/proc/sys") / key)


class _Supervisor:
    """Starts what the folder of components declares, and starts again what ends."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._running: dict[int, str] = {}
        self._ended: dict[str, float] = {}

    def run(self) -> None:
        """Work until SIGTERM."""
        while True:
            self._reconcile()
            received = signal.sigtimedwait(WAKERS, RESTART_AFTER if self._ended else 3600)
            if received and received.si_signo == signal.SIGTERM:
                return
            self._reap()

    def _reconcile(self) -> None:
        declared = {file.stem: file for file in Inside.components.glob("*.json")}
        for pid, name in self._running.items():
            if name not in declared:
                os.kill(pid, signal.SIGTERM)
        for name, file in declared.items():
            rested = time.monotonic() - self._ended.get(name, 0.0) >= RESTART_AFTER
            if rested and name not in self._running.values():
                self._ended.pop(name, None)
                self._running[self._start(Component(**json.loads(file.read_text())))] = name

    def _start(self, component: Component) -> int:
        log = os.open(Inside.logs / f"{component.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            if component.command[0] in FUNCTIONS:
                return self._fork(component.command[0], log)
            return os.posix_spawnp(
                component.command[0], list(component.command), dict(os.environ), setsid=True, setsigmask=[],
                file_actions=[(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)],
            )  # fmt: skip
        finally:
            os.close(log)

    def _fork(self, name: str, log: int) -> int:
        """Run one of our functions in a process of its own; our files may be hidden by the mounts by now."""
        pid = os.fork()
        if pid:
            return pid
        os.dup2(log, 1)
        os.dup2(log, 2)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WAKERS)
        try:
            FUNCTIONS[name](self._settings)
        finally:
            sys.stderr.flush()
            os._exit(1)

    def _reap(self) -> None:
        """Collect ended processes; containers' shims that lost their parent are ours, too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if name := self._running.pop(pid, None):
                self._ended[name] = time.monotonic()
                print(f"{name} ended with {os.waitstatus_to_exitcode(status)}", flush=True)
