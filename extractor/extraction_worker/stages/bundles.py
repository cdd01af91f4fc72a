"""Bundles: what one index of the worker Job works. Pure."""

from collections.abc import Sequence

from extraction_worker.model import Chunk, Plan

SMALL_BYTES = 256 << 20
"""A plan of up to so many bytes is one bundle: it is read before more pods would have started."""
BUNDLE_BYTES = 2 << 30
"""About so many bytes make a bundle: a minute's work of a pod, which is what a lost pod costs."""
LEAST_BUNDLE_BYTES = 64 << 20
"""Fewer aren't worth the start of a pod, however slowly the source may be read."""
MAX_BUNDLES = 10_000
"""So that the Job's status stays small."""


def bundle_count(plan: Plan, parallelism: int, bytes_per_second: int | None = None) -> int:
    """Return into how many bundles a plan is divided, by its estimates.

    Parameters
    ----------
    parallelism
        Pods at the same time; there are as many bundles at least, where there are as many chunks.
    bytes_per_second
        What all pods together may read, where that is limited: then a minute's work is less.
    """
    chunks = len(plan.chunks)
    if chunks <= 1 or plan.estimated_bytes <= SMALL_BYTES:
        return 1
    minute = 60 * bytes_per_second // parallelism if bytes_per_second is not None else BUNDLE_BYTES
    by_size = -(-plan.estimated_bytes // min(BUNDLE_BYTES, max(LEAST_BUNDLE_BYTES, minute)))
    return min(max(by_size, parallelism), chunks, MAX_BUNDLES)


def bundle_chunks(plan: Plan, bundle: int, bundles: int) -> Sequence[Chunk]:
    """Return the chunks of one bundle, consecutive ones: those whose position *i* has ``i * bundles // chunks`` equal.

    Parameters
    ----------
    bundle
        From 0.
    """
    first, end = bundle_span(len(plan.chunks), bundle, bundles)
    return plan.chunks[first:end]


def bundle_span(total: int, bundle: int, bundles: int) -> tuple[int, int]:
    """Return the first chunk of a bundle, and the one behind its last, of ``total``."""
    # The least i with i * bundles >= bundle * total, and the same for the next bundle.
    return -(-bundle * total // bundles), -(-(bundle + 1) * total // bundles)
