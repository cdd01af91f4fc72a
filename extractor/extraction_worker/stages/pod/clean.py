"""``clean``: ends an attempt that nobody is left to publish."""

from extraction_contract.messages import CleanMessage, PublishMessage
from extraction_worker.errors import SinkExists
from extraction_worker.model import Manifest
from extraction_worker.stages.pod.invocation import Invocation
from extraction_worker.stages.pod.job import JobPod, publish_message

_SECONDS = 120.0


def run(invocation: Invocation) -> CleanMessage | PublishMessage:
    """Remove what is in staging; return whether the attempt was published.

    Raises
    ------
    ExtractionError
        Something may be left; what may pass by itself was repeated for two minutes.
    """
    pod = JobPod.load(invocation)
    sink = pod.sink()

    def settle() -> Manifest | None:
        # In this order: a publisher that was believed dead can publish until the discard settles that it can't.
        sink.discard()
        try:
            return pod.published(sink)
        except SinkExists:
            return None

    manifest = invocation.retrying(_SECONDS, "Cleaning up")(settle)
    invocation.log.info("cleaned", published=manifest is not None)
    return publish_message(manifest, sink) if manifest is not None else CleanMessage()
