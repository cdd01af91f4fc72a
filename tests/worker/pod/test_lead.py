"""What the other containers of the lead learn of the holder."""

import threading

import pytest

from extraction_worker.errors import SinkFull, SnapshotLost, SourceInDanger
from extraction_worker.stages.pod.failures import failure_of
from extraction_worker.stages.pod.lead import Holder, LeadFiles
from extraction_worker.stages.pod.stop import Stop

DANGER = failure_of(SourceInDanger("DDL waits."))


@pytest.fixture
def files(tmp_path):
    return LeadFiles(tmp_path)


def test_a_loss_is_called_out(files):
    lost = threading.Event()
    with Holder(files, Stop()).watched(lost.set):
        files.write_error(DANGER)
        assert lost.wait(20)


def test_a_sessions_lost_snapshot_is_explained_by_the_holder_who_may_tell_later(files):
    writer = threading.Timer(0.2, files.write_error, (DANGER,))
    writer.start()
    assert isinstance(Holder(files, Stop()).explain(SnapshotLost("gone")), SourceInDanger)
    writer.join()


def test_an_error_without_a_loss_explains_itself(files):
    error = SinkFull("full")
    assert Holder(files, Stop()).explain(error) is error
    stopped = Stop()
    stopped.request("SIGTERM")
    lost = SnapshotLost("gone")
    assert Holder(files, stopped).explain(lost) is lost
