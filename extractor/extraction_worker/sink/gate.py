"""The only way from an encoder to a part: bytes pass while the encoder is called, and never after an error.

pyarrow's writers write a footer when they are closed, when a ``with`` ends on an exception, and when they are
garbage collected. A footer behind half of the rows is a file that readers accept. So a writer never gets the part
itself but a :class:`Gate`, which is open only inside :meth:`Gate.passing`, and shut for good by the first error.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from extraction_worker.errors import SinkUnavailable
from extraction_worker.sink.abc import PartStream


class Gate:
    """A file object, as pyarrow needs it, that hands bytes on to ``stream`` and counts them."""

    closed = False
    """Asked for by pyarrow; the stream's owner closes the stream."""

    def __init__(self, stream: PartStream) -> None:
        self._stream = stream
        self._position = 0
        self._passing = False
        self._shut = False

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Let bytes pass inside the block; an exception out of it shuts the gate for good.

        Raises
        ------
        RuntimeError
            The gate is shut: the encoder was finished or aborted, or failed before.
        """
        if self._shut:
            raise RuntimeError("This encoder was finished or aborted, or has failed: nothing can be written to it.")
        self._passing = True
        try:
            yield
        except BaseException:
            self._shut = True
            raise
        finally:
            self._passing = False

    def shut(self) -> None:
        """Let nothing pass from now on."""
        self._shut = True

    def write(self, data: bytes | pa.Buffer) -> int:
        """Hand ``data`` on; drop it outside of :meth:`passing`, where only a destructor can call.

        Raises
        ------
        SinkUnavailable
            The stream took less than it was given.
        """
        if not self._passing:
            return len(data)
        if self._shut:
            raise RuntimeError("The part's stream has failed before.")
        # pyarrow may reuse the memory behind a Buffer once this returns, and a sink may keep what it was given.
        data = data if isinstance(data, bytes) else bytes(data)
        try:
            taken = self._stream.write(data)
            if taken != len(data):
                raise SinkUnavailable(f"The sink took {taken} of {len(data)} bytes of a part.")
        except BaseException:
            self._shut = True
            raise
        self._position += taken
        return taken

    def tell(self) -> int:
        """Return how many bytes have passed."""
        return self._position

    def flush(self) -> None:
        """Do nothing: nothing is held back here."""

    def close(self) -> None:
        """Do nothing: the stream's owner closes or aborts it."""

    def readable(self) -> bool:
        """Return False."""
        return False

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return False."""
        return False
