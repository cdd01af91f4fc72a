"""The fence, its sockets, and the switch in the kernel."""

import asyncio
import math
import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

from extraction_operator.cluster.errors import NotLeaderError
from extraction_operator.cluster.fence import LINGER, SLACK, Fence, socket_factory
from extraction_operator.cluster.timing import Timing


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_fence_is_closed_until_somebody_opens_it():
    fence = Fence()
    assert not fence.is_open
    with pytest.raises(NotLeaderError):
        fence.check()


def test_a_fence_closes_by_itself():
    clock = Clock()
    fence = Fence(clock)
    fence.open_until(106.0)
    clock.now = 105.9
    fence.check()
    clock.now = 106.0
    with pytest.raises(NotLeaderError):
        fence.check()


def test_a_closed_fence_stays_closed():
    fence = Fence()
    fence.open_until(math.inf)
    fence.check()
    fence.close()
    assert not fence.is_open


def test_the_times_fit_into_the_lease():
    timing = Timing()
    assert timing.deadline + SLACK + LINGER + LINGER < timing.duration


def test_a_socket_sends_nothing_while_the_fence_is_closed():
    clock = Clock()
    fence = Fence(clock)
    fence.open_until(101.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = (socket.AF_INET, socket.SOCK_STREAM, 0, "", server.getsockname())
        with socket_factory(fence)(address) as it:
            it.connect(server.getsockname())
            peer, _ = server.accept()
            with peer:
                assert it.send(b"in time") == 7
                assert it.sendmsg([b", too"]) == 5
                clock.now = 101.0
                for late in (it.send, lambda data: it.sendmsg([data])):
                    with pytest.raises(ConnectionAbortedError):
                        late(b"late")
                it.shutdown(socket.SHUT_WR)
                assert b"".join(iter(lambda: peer.recv(100), b"")) == b"in time, too"


def test_the_kernel_gives_up_what_isnt_acknowledged():
    with socket_factory(Fence())((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1))) as it:
        assert it.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == LINGER * 1000


def test_bytes_that_wait_in_a_transport_arent_sent_when_the_fence_has_closed_meanwhile():
    # A request larger than the kernel takes at once lies in a buffer of asyncio until the peer reads.
    async def scenario() -> int:
        clock = Clock()
        fence = Fence(clock)
        fence.open_until(101.0)
        lost = asyncio.get_running_loop().create_future()

        class Protocol(asyncio.Protocol):
            def connection_lost(self, exc: Exception | None) -> None:
                lost.set_result(exc)

        with socket.create_server(("127.0.0.1", 0)) as server:
            made = socket_factory(fence)((socket.AF_INET, socket.SOCK_STREAM, 0, "", server.getsockname()))
            made.setblocking(False)
            await asyncio.get_running_loop().sock_connect(made, server.getsockname())
            transport, _ = await asyncio.get_running_loop().create_connection(Protocol, sock=made)
            peer, _ = server.accept()
            with peer:
                size = 64 << 20
                transport.write(b"x" * size)
                assert transport.get_write_buffer_size() > 0
                clock.now = 101.0
                received = 0
                peer.setblocking(False)
                while data := await asyncio.get_running_loop().sock_recv(peer, 1 << 20):
                    received += len(data)
                assert isinstance(await lost, ConnectionAbortedError)
                return size - received

    assert asyncio.run(scenario()) > 0


SWITCH = """
    import os, signal, sys, time
    from extraction_operator.cluster.switch import Switch

    {before}
    switch = Switch()
    switch.install()
    switch.arm(float(sys.argv[1]))
    print("armed", flush=True)
    {after}
"""


def switched(seconds: float, after: str, before: str = "") -> "subprocess.Popen[bytes]":
    code = textwrap.dedent(SWITCH).format(before=before, after=after)
    process = subprocess.Popen([sys.executable, "-c", code, str(seconds)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"armed\n"
    return process


def test_a_process_that_isnt_armed_again_is_ended_even_if_it_doesnt_turn_its_loop():
    with switched(0.2, "while True: pass") as process:
        assert process.wait(10) == -signal.SIGALRM


def test_a_moment_that_has_passed_ends_the_process_at_once():
    code = textwrap.dedent(SWITCH).format(before="", after="time.sleep(60)")
    done = subprocess.run([sys.executable, "-c", code, "-5"], timeout=20, capture_output=True, check=False)
    assert done.returncode == -signal.SIGALRM


def test_a_disarmed_process_lives():
    with switched(0.2, "switch.disarm(); time.sleep(0.5); sys.exit(7)") as process:
        assert process.wait(10) == 7


def test_a_process_that_was_stopped_is_ended_before_it_runs_another_instruction():
    # It writes all the time; while it is stopped, the pipe is emptied.
    with switched(1.0, "while True: os.write(1, b'x')") as process:
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        os.set_blocking(process.stdout.fileno(), False)
        _drain(process)
        # The timer ends while it is stopped: a later one of ours proves that.
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1.5)"]) as later:
            later.wait()
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(10) == -signal.SIGALRM
        assert _drain(process) == 0


def test_the_first_process_of_a_container_is_ended_too():
    # The kernel spares it from default actions. A namespace of its own makes one here.
    probe = subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("needs the right to make a process namespace")
    code = textwrap.dedent(SWITCH).format(before="assert os.getpid() == 1", after="while True: pass")
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", code, "0.2"],
        timeout=20, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 14, done.stderr


def _drain(process: "subprocess.Popen[bytes]") -> int:
    count = 0
    assert process.stdout is not None
    while data := process.stdout.read(1 << 16):
        count += len(data)
    return count
