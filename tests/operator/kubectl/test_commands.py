"""The commands, with a program that answers as kubectl does."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from extraction_operator.kubectl import commands
from extraction_operator.kubectl.follow import follow
from extraction_operator.kubectl.program import Kubectl
from extraction_operator.kubectl.view import JobView
from extraction_worker.cli import main as extraction
from extraction_worker.cli.cluster import COMMANDS

Job = Callable[..., dict[str, Any]]
CONFLICT = "Error from server (Conflict): Operation cannot be fulfilled on ...: the object has been modified"
NOT_FOUND = 'Error from server (NotFound): extractionjobs.extraction-operator.io "orders" not found'


def call(*words: str) -> Result:
    return CliRunner().invoke(commands.main, list(words))


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses are noted, not made."""
    pauses: list[float] = []
    monkeypatch.setattr(follow, "__defaults__", (pauses.append, *follow.__defaults__[1:]))
    return pauses


def test_a_job_is_followed_to_its_end(kubectl: Any, job: Job) -> None:
    kubectl.watch(
        ("ADDED", job("")),
        ("MODIFIED", job("Running", "Planned", "40 chunks.", status={"progress": {"summary": "12/40"}})),
        ("MODIFIED", job("Running", "Planned", "40 chunks.", status={"progress": {"summary": "12/40"}})),
        ("MODIFIED", job("Failed", "PermissionDenied", "reader may not read public.orders.")),
        ("MODIFIED", job("Succeeded")),
    )
    done = call("watch", "orders", "--namespace", "shop", "--context=there")
    assert done.exit_code == 15
    assert done.stderr.splitlines() == [
        "orders Pending",
        "orders Running (12/40 chunks): Planned: 40 chunks.",
        "orders Failed: PermissionDenied: reader may not read public.orders.",
    ]
    assert kubectl.calls[0][:3] == ["--namespace=shop", "--context=there", "get"]


def test_a_watch_that_ends_or_breaks_is_begun_again(kubectl: Any, job: Job, no_pause: list[float]) -> None:
    kubectl.watch(("ADDED", job("Running"))).watch(("ERROR", {"code": 410}), ("MODIFIED", job("Failed")))
    kubectl.watch(err="Unable to connect to the server", code=1).watch(code=1, err="refused")
    kubectl.answer('{"type": "MODIFIED", "obj').watch(("ADDED", job("Succeeded")))
    done = call("watch", "orders")
    assert done.exit_code == 0
    assert "Unable to connect to the server Trying again in 1 s." in done.stderr
    assert no_pause == [0.5, 0.5, 1.0, 2.0, 4.0]


@pytest.mark.parametrize("deleted", ["event", "answer"])
def test_a_job_that_is_deleted_meanwhile_is_no_success(
    kubectl: Any, job: Job, no_pause: list[float], deleted: str
) -> None:
    if deleted == "event":
        kubectl.watch(("ADDED", job("Running")), ("DELETED", job("Running")))
    else:
        kubectl.watch(("ADDED", job("Running"))).watch(err=NOT_FOUND, code=1)
    done = call("watch", "orders")
    assert done.exit_code == 1
    assert "orders was deleted." in done.stderr


def test_kubectl_says_itself_why_it_fails(kubectl: Any) -> None:
    kubectl.answer(err=NOT_FOUND, code=1).answer(err=NOT_FOUND, code=1).answer(code=3)
    for command in ("watch", "cancel"):
        done = call(command, "orders")
        assert (done.exit_code, done.stderr.strip()) == (1, NOT_FOUND)
    assert "kubectl ended with exit code 3." in call("logs", "orders").stderr


def test_a_request_changes_exactly_what_was_looked_at(kubectl: Any, job: Job) -> None:
    kubectl.answer(job("Failed")).answer("patched")
    done = call("retry", "exj/orders")
    assert (done.exit_code, done.stdout) == (0, "orders will be retried as attempt 2.\n")
    assert kubectl.calls[1][-1] == (
        '--patch={"metadata": {"uid": "u-1", "resourceVersion": "7"}, "spec": {"retry": 1}}'
    )


def test_a_job_that_changed_in_between_is_looked_at_again(kubectl: Any, job: Job) -> None:
    kubectl.answer(job("Failed")).answer(err=CONFLICT, code=1).answer(job("Failed", spec={"retry": 1}))
    done = call("retry", "orders")
    assert "already" in done.stdout
    assert len(kubectl.calls) == 3


def test_a_job_that_changes_all_the_time_is_given_up(kubectl: Any, job: Job) -> None:
    for _ in range(5):
        kubectl.answer(job()).answer(err=CONFLICT, code=1)
    done = call("suspend", "orders")
    assert (done.exit_code, done.stderr.strip()) == (1, CONFLICT)


def test_a_patch_that_is_forbidden_is_not_repeated(kubectl: Any, job: Job) -> None:
    kubectl.answer(job(spec={"suspend": True})).answer(err="Error from server (Forbidden)", code=1)
    assert call("resume", "orders").exit_code == 1
    assert len(kubectl.calls) == 2


def test_a_refusal_says_why(kubectl: Any, job: Job) -> None:
    kubectl.answer(job("Succeeded"))
    done = call("retry", "orders")
    assert done.exit_code == 1
    assert "its result is published" in done.stderr
    assert len(kubectl.calls) == 1


@pytest.mark.parametrize("name", ["--all", "a,b", "pod/orders", "exj/", "Orders", "a b", "-o=yaml"])
def test_what_is_no_name_of_a_job_never_reaches_kubectl(kubectl: Any, name: str) -> None:
    assert call("cancel", "--", name).exit_code == 2
    assert not (kubectl.folder / "calls").exists()


def test_a_name_is_taken_as_kubectl_prints_it(kubectl: Any, job: Job) -> None:
    kubectl.answer(job("Running", spec={"cancel": True}))
    assert call("cancel", "extractionjob.extraction-operator.io/orders").stdout == "orders is being cancelled.\n"


def test_without_kubectl_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECTL", "there-is-no-such-program")
    done = call("watch", "orders")
    assert (done.exit_code, done.stderr) == (
        1, "kubectl isn't on PATH; the environment variable KUBECTL may say where it is.\n"
    )  # fmt: skip


def test_ctrl_c_ends_the_watching_with_130(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    program = tmp_path / "kubectl"
    # Not by `touch`: a shell that waits for a child goes on after a signal that the child outlived.
    program.write_text(f"#!/bin/sh\n: > {ready}\nexec sleep 60\n")
    program.chmod(0o755)
    # What a shell runs in the background ignores the signal, and so would all that it starts.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    watching = subprocess.Popen(
        [sys.executable, "-c", f"{heed}\nfrom extraction_operator.kubectl.commands import main; main()", "watch", "a"],
        env=os.environ | {"KUBECTL": str(program)}, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    while not ready.exists():
        assert watching.poll() is None
        os.sched_yield()
    # As a terminal does it: every process of the group gets the signal.
    os.killpg(watching.pid, signal.SIGINT)
    _, err = watching.communicate(timeout=20)
    assert watching.returncode == 130
    assert err == b""


def test_a_plan_is_made_on_this_machine(tmp_path: Path) -> None:
    manifest = tmp_path / "job.yaml"
    manifest.write_text("kind: Nothing\n")
    code = "from extraction_operator.kubectl.commands import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "plan", "-f", manifest, "--job", "orders"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 10
    assert "job.yaml" in done.stderr


def test_a_plan_without_the_extractor_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "job.yaml").write_text("")
    done = call("plan", "-f", str(tmp_path / "job.yaml"))
    assert done.exit_code == 1
    assert "pip install" in done.stderr


# The same commands in `extraction` ------------------------------------------------------------------------------


def test_extraction_lists_the_commands_in_their_own_words() -> None:
    for command in COMMANDS:
        real = commands.main.commands[command.name or ""]
        assert command.short_help == (real.help or "").splitlines()[0]
    assert {command.name for command in COMMANDS} == set(commands.main.commands) - {"plan"}


def test_extraction_calls_the_same_command(kubectl: Any, job: Job) -> None:
    kubectl.answer(job("Running", spec={"suspend": True}))
    done = CliRunner().invoke(extraction, ["suspend", "orders", "-n", "shop"])
    assert (done.exit_code, done.output) == (0, "orders is suspended already.\n")


def test_help_of_extraction_imports_no_operator() -> None:
    code = (
        "import sys\nfrom extraction_worker.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(any(name.startswith('extraction_operator') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "watch" in done.stdout


def test_without_the_operator_extraction_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "extraction_operator.kubectl.commands", None)
    done = CliRunner().invoke(extraction, ["watch", "orders"])
    assert done.exit_code == 1
    assert "pip install 'extraction-operator[kubectl]'" in done.output


def test_a_watch_is_ended_with_its_reader(kubectl: Any, job: Job) -> None:
    kubectl.watch(("ADDED", job("Running")), ("MODIFIED", job("Publishing")))
    events = Kubectl.find({}).watch("orders")
    assert JobView.of(next(events)["object"]).phase == "Running"
    events.close()  # type: ignore[attr-defined]
