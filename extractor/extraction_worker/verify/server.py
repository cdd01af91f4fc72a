"""Level ``Source``: what the server computes over a chunk must be what we compute over the batches we wrote of it.

For each column both sides count the values that aren't NULL, add them up where they can be added, and add up their
hashes (:mod:`extraction_worker.verify.forms`). A row that is lost, doubled or cut short, a value that changes
anywhere between the server's table and the batches that are encoded, makes a difference. The sums don't depend on the
order of rows, so that two values of one column that trade their rows do not; nor do they depend on the driver, the
protocol or the decoders, which is what they are to prove.

The server's aggregates have to run in the transaction that read the chunk: both see one snapshot then.

A masked column is compared as it was read, before the mask, and its sums stay here: they are made of its values. A
column that isn't read has nothing to prove.
"""

from collections.abc import Sequence
from decimal import Decimal

import pyarrow as pa

from extraction_worker.errors import VerificationFailed
from extraction_worker.model import ColumnPlan
from extraction_worker.source.type_rules import base_type, element_type
from extraction_worker.source.types import OnUnrepresentable, target_type
from extraction_worker.verify.forms import form
from extraction_worker.verify.values import ColumnSums

_MODULUS = 1 << 64
_ARRAY_OF_ONE = 31
"""The hash of an array of one value is this plus the value's."""

_HINT = (
    "Nothing of it is published. If the query gives other rows each time it runs, it can't be proven at this level; "
    "otherwise please report this."
)


class ServerProof:
    """The proof of one chunk. Not for use by two threads at once.

    Parameters
    ----------
    columns
        The plan's columns.
    on_unrepresentable
        The plan's policy: under ``Null`` the server leaves out what the batches hold NULL for.
    """

    def __init__(self, columns: Sequence[ColumnPlan], on_unrepresentable: OnUnrepresentable) -> None:
        self._columns = [
            None if column.mask is not None and not column.mask.reads else _ColumnProof(column, on_unrepresentable)
            for column in columns
        ]
        self._rows = 0
        self._evidence: dict[str, dict[str, str]] | None = None

    @property
    def _proven(self) -> list["_ColumnProof"]:
        return [column for column in self._columns if column is not None]

    def select_list(self) -> str:
        """Return the aggregates, for a SELECT over exactly the chunk's rows.

        One item for the number of rows and the server's encoding, and one for each column: a SELECT has room for
        1,664 items, a table for 1,600 columns. All are text.
        """
        rows = "pg_catalog.concat_ws(' ', pg_catalog.count(*), pg_catalog.getdatabaseencoding()) AS p"
        columns = (f"{column.aggregates()} AS p{index}" for index, column in enumerate(self._proven))
        return ", ".join([rows, *columns])

    def update(self, batch: pa.RecordBatch) -> None:
        """Add the rows of a batch, in the target types, as it is written or about to be masked."""
        self._rows += batch.num_rows
        for column, array in zip(self._columns, batch.columns, strict=True):
            if column is not None:
                column.sums.update(array)

    def compare(self, row: Sequence[object], *, chunk: int) -> None:
        """Refuse a chunk of which the server computes something else.

        Parameters
        ----------
        row
            What the server answered to :meth:`select_list`.
        chunk
            Index of the chunk, for the message.

        Raises
        ------
        VerificationFailed
            The message names the chunk and the first column that differs, and what of it.
        """
        rows, encoding = str(row[0]).split(" ")
        if int(rows) != self._rows:
            raise VerificationFailed(f"Chunk {chunk}: the server has {rows} rows, {self._rows} were read.", hint=_HINT)
        for column, found in zip(self._proven, row[1:], strict=True):
            if (difference := column.difference(str(found), is_utf8=encoding == "UTF8")) is not None:
                raise VerificationFailed(f"Chunk {chunk}, column {column.name!r}: {difference}.", hint=_HINT)
        self._evidence = {column.name: column.evidence() for column in self._proven}

    def evidence(self) -> dict[str, dict[str, str]]:
        """Return what both sides agree on, by column: ``count``; ``sum`` and ``hash`` where the type has them.

        Of a masked column the count alone, and nothing of one that isn't read.

        Raises
        ------
        ValueError
            :meth:`compare` wasn't called, or failed.
        """
        if self._evidence is None:
            raise ValueError("the server's answer hasn't been compared")
        return self._evidence


class _ColumnProof:
    """Both sides of one column."""

    def __init__(self, column: ColumnPlan, on_unrepresentable: OnUnrepresentable) -> None:
        self.name = column.name
        self._masked = column.mask is not None
        self._form = form(column, on_unrepresentable)
        kind = target_type(column)
        element = element_type(base_type(column.type))
        padded = element is not None and base_type(element).name == "bpchar"
        self.sums = ColumnSums(kind, summed=self._form.total is not None, padded=padded)
        self._scale = kind.scale if pa.types.is_decimal(kind) else 0

    def aggregates(self) -> str:
        """Return the column's aggregates as one text, separated by blanks; a sum over nothing is 0."""
        sums = [f"coalesce({sql}, 0)" for sql in (self._form.total, self._form.hashed) if sql is not None]
        return f"pg_catalog.concat_ws(' ', {', '.join([self._form.count, *sums])})"

    def difference(self, found: str, *, is_utf8: bool) -> str | None:
        """Return how the server's aggregates differ from ours, None if they don't."""
        numbers = iter(found.split(" "))
        if (count := int(next(numbers))) != self.sums.count:
            return f"the server has {count} values that aren't NULL, {self.sums.count} were read"
        if self._form.total is not None and Decimal(next(numbers)) != self._total():
            return "the server's values have another sum than those that were read"
        in_array = self._form.in_array == "always" or (self._form.in_array == "unless UTF8" and not is_utf8)
        added = _ARRAY_OF_ONE * count if in_array else 0
        if self._form.hashed is not None and (int(next(numbers)) - added) % _MODULUS != self.sums.hashed:
            return "the server's values have other hashes than those that were read"
        return None

    def evidence(self) -> dict[str, str]:
        """Return our numbers as text."""
        evidence = {"count": str(self.sums.count)}
        if self._masked:
            return evidence
        if self._form.total is not None:
            evidence["sum"] = f"{self._total():f}"
        if self._form.hashed is not None:
            evidence["hash"] = f"{self.sums.hashed:016x}"
        return evidence

    def _total(self) -> Decimal:
        # Digits and exponent: an operation on decimals would round to the context's precision.
        sign, digits, _ = Decimal(self.sums.total).as_tuple()
        return Decimal((sign, digits, -self._scale))
