"""Importing without the garbage collector, and beside what waits for a server.

Modules stay until the end: the collector's walking through their hundred thousand objects again and again, last when
Python ends, takes a quarter of the time of importing them.
"""

import contextlib
import gc
import importlib
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Import without the garbage collector, and keep what was imported from it."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


def load_beside(*modules: str) -> threading.Thread:
    """Import modules in a thread, while this one waits for a server; whoever needs one sooner waits for it.

    A module that can't be imported raises where it is asked for, not here.
    """

    def load() -> None:
        with uncollected(), contextlib.suppress(ImportError):
            for module in modules:
                importlib.import_module(module)

    thread = threading.Thread(target=load, name="imports", daemon=True)
    thread.start()
    return thread
