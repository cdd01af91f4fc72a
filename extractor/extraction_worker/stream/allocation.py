"""How this process allocates: set once at the start of a command, before the first batch.

Batches are allocated by the driver with malloc and by Arrow from its own pool. glibc would return each large block to
the system and fault it in again for the next batch: a tenth of the time of reading. jemalloc, as Arrow's pool, keeps
two writers' memory a tenth lower than mimalloc does (both measured by bench/memory.py).
"""

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 64 * 1024 * 1024


def prepare_allocators() -> None:
    """Keep freed blocks for the next batch, and use jemalloc for Arrow where it was built in. Never raises."""
    import pyarrow as pa

    with contextlib.suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)
    with contextlib.suppress(NotImplementedError):
        pa.set_memory_pool(pa.jemalloc_memory_pool())
