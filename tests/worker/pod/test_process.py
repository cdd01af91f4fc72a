"""Last words, exit codes, signals: what is true of every command."""

import gc
import importlib
import io
import json
import os
import pty
import signal
import socket
import threading

import pytest

from extraction_contract.messages import MAX_BYTES, CleanMessage, FailureMessage, decode
from extraction_contract.problems import ManifestError, Origin, Problem
from extraction_worker.cli.pod import _WHAT
from extraction_worker.errors import Interrupted, SchemaDrift, SinkFull, SourceBusy
from extraction_worker.report.progress import Progress
from extraction_worker.stages.pod import clean as clean_module
from extraction_worker.stages.pod import log as log_module
from extraction_worker.stages.pod.failures import error_of, failure_of
from extraction_worker.stages.pod.log import EventLog, logged
from extraction_worker.stages.pod.process import COMMANDS, run_command
from extraction_worker.stages.pod.stop import Stop
from support.pods import LEAD, Pods, end, events


def ending(pods, monkeypatch, run, **more):
    """Run ``clean`` with another inside; return exit code and last words."""
    monkeypatch.setattr(clean_module, "run", run)
    code = run_command("clean", pods.invocation("clean", **more))
    return code, pods.last_words("clean")


@pytest.fixture
def pods(database18, tmp_path):
    return Pods(tmp_path, database18)


def test_the_commands_are_those_of_the_command_line():
    assert tuple(_WHAT) == COMMANDS


def test_a_result_is_told(pods, monkeypatch):
    assert ending(pods, monkeypatch, lambda _: CleanMessage()) == (0, CleanMessage())


def test_a_command_is_imported_without_the_collector_and_runs_with_it(pods, monkeypatch):
    collecting = []
    load = importlib.import_module

    def seen(name):
        collecting.append(gc.isenabled())
        return load(name)

    def run(_):
        collecting.append(gc.isenabled())
        return CleanMessage()

    monkeypatch.setattr(importlib, "import_module", seen)
    ending(pods, monkeypatch, run)
    assert collecting == [False, True]


def test_an_error_of_ours_is_told_with_its_code(pods, monkeypatch):
    def run(_):
        raise SinkFull("No space is left.", hint="Make some.")

    code, told = ending(pods, monkeypatch, run, JOB_COMPLETION_INDEX=4)
    assert code == told.exit_code == 27
    assert (told.reason, told.message, told.bundle) == ("SinkFull", "No space is left. Make some.", 4)


def test_a_bug_is_told_without_its_text(pods, monkeypatch):
    def run(_):
        raise RuntimeError("a value of a row")

    code, told = ending(pods, monkeypatch, run)
    assert (code, told.reason) == (1, "InternalError")
    assert "RuntimeError at test_process.py:" in told.message
    assert "value of a row" not in told.message


def test_where_a_bug_was_is_logged(pods, monkeypatch):
    def run(_):
        raise RuntimeError("a value of a row")

    monkeypatch.setattr(clean_module, "run", run)
    invocation = pods.invocation("clean")
    run_command("clean", invocation)
    [event] = [event for event in events(invocation) if event["event"] == "failed"]
    assert any(place.startswith("test_process.py") for place in event["trace"])
    assert "value of a row" not in invocation.log._stream.getvalue()


def test_last_words_that_nobody_takes_are_no_error(pods, monkeypatch):
    monkeypatch.setattr(clean_module, "run", lambda _: CleanMessage())
    pods.log_of("clean", LEAD).mkdir()
    invocation = pods.invocation("clean")
    assert run_command("clean", invocation) == 0
    assert any(event["event"] == "untold" for event in events(invocation))


def test_a_signal_asks_to_stop_and_handlers_are_put_back(pods, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)

    def run(invocation):
        os.kill(os.getpid(), signal.SIGTERM)
        invocation.stop.wait(20)

    code, told = ending(pods, monkeypatch, run)
    assert (code, told.message) == (130, "Stopped by SIGTERM.")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_command_that_does_not_end_in_time_is_ended_and_told(database18, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connection = {"host": "127.0.0.1", "port": silent.getsockname()[1], "database": "x", "sslMode": "disable"}
        pods = Pods(tmp_path, database18, consistency="PerPartition", source={"connection": connection})
        plan = pods.start("plan")
        with silent.accept()[0]:
            plan.send_signal(signal.SIGTERM)
            assert end(plan) == 130
    assert pods.last_words("plan").reason == "Interrupted"


# Failures ---------------------------------------------------------------------------------------------------------


def test_failures_and_errors_are_inverse():
    error = SchemaDrift("It changed.")
    error.chunk = 7
    failure = failure_of(error, bundle=2)
    assert (failure.bundle, failure.chunk, failure.transient) == (2, 7, False)
    back = error_of(failure)
    assert (type(back), str(back), back.chunk) == (SchemaDrift, "It changed.", 7)
    assert failure_of(SourceBusy("full")).transient
    assert error_of(FailureMessage(reason="Unheard", exit_code=9, message="m")).exit_code == 1


@pytest.mark.parametrize("character", ["a", "\u00fc", "\U0001f600", '"', "\\"])
def test_a_long_error_fits(character):
    text = failure_of(SchemaDrift(character * 9000)).encode()
    assert len(text) <= MAX_BYTES
    assert isinstance(decode(text), FailureMessage)


def test_secrets_are_no_part_of_a_failure():
    failure = failure_of(SchemaDrift("postgresql://u:hunter2@h/x password=hunter2"))
    assert "hunter2" not in failure.message


def test_a_bad_manifest_is_one():
    failure = failure_of(ManifestError([Problem(Origin("job.json", 2), "spec.table", "is required")]))
    assert (failure.reason, "spec.table" in failure.message) == ("InvalidManifest", True)


# Stopping and logging ---------------------------------------------------------------------------------------------


def test_a_stop_calls_those_who_are_busy_and_those_who_begin_later():
    stop, called = Stop(), []
    with stop.calling(lambda: called.append("busy")):
        stop.request("SIGTERM")
    with stop.calling(lambda: called.append("later")):
        pass
    stop.request("SIGINT")
    assert called == ["busy", "later"]
    with pytest.raises(Interrupted, match="SIGTERM"):
        stop.check()


def test_progress_is_logged_where_it_changed(monkeypatch):
    monkeypatch.setattr(log_module, "_MESSAGES_EVERY", 0.01)
    monkeypatch.setattr(log_module, "_COUNTS_EVERY", 0.01)
    stream, progress = io.StringIO(), Progress()
    seen = threading.Event()
    write = stream.write
    monkeypatch.setattr(stream, "write", lambda text: write(text) and ("progress" in text and seen.set()))
    with logged(progress, EventLog(stream, command="work")):
        progress.planned(2, 10, 100)
        progress.read(5, 50)
        progress.say("Something was said.")
        assert seen.wait(20)
        progress.retry("At the very end.")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    counts = [line for line in lines if line["event"] == "progress"]
    assert [(line["rows"], line["bytes"], line["of"], line["command"]) for line in counts] == [(5, 50, 2, "work")]
    assert [line["message"] for line in lines if line["event"] == "said"] == ["Something was said.", "At the very end."]


def test_a_terminal_gets_words_and_a_closed_stream_nothing():
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        EventLog(terminal, command="x").info("happened", rows=3)
        shown = os.read(ours, 1000).decode()
    os.close(ours)
    assert "info    happened rows=3" in shown
    EventLog(terminal).info("happened")
