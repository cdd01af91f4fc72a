"""From the masks that a job declares to what its plan says of them, and to what its workers apply."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from extraction_contract.resolve import ResolvedJob
from extraction_worker.model import ColumnPlan, MaskPlan
from extraction_worker.stream.mask_keys import key_id

if TYPE_CHECKING:
    from extraction_worker.stream.masks import Masks


def declared_masks(resolved: ResolvedJob) -> Mapping[str, MaskPlan]:
    """Return the masks by column, with the ids of the keys as they are mounted now.

    Raises
    ------
    ManifestError
        A key isn't there, or is too short.
    """
    keys = _keys(resolved)
    masks: dict[str, MaskPlan] = {}
    for mask in resolved.job.spec.masks:
        partial = mask.method == "Partial"
        masks[mask.column] = MaskPlan(
            method=mask.method,
            value=mask.value,
            key_id=key_id(keys[mask.column]) if mask.column in keys else None,
            keep_first=mask.keep_first if partial else None,
            keep_last=mask.keep_last if partial else None,
            replacement=mask.replacement if partial else None,
            to=mask.to,
        )
    return masks


def open_masks(resolved: ResolvedJob, columns: tuple[ColumnPlan, ...]) -> "Masks":
    """Return the masks of a plan's columns, ready to apply.

    Raises
    ------
    ManifestError
        A key isn't there, or is too short.
    InvalidManifest
        A key isn't the one that the plan was made with.
    """
    # Here and not above: who plans doesn't need what masks rows.
    from extraction_worker.stream.masks import Masks

    return Masks(columns, _keys(resolved))


def _keys(resolved: ResolvedJob) -> dict[str, bytes]:
    return {column: key.get_secret_value().encode() for column, key in resolved.mask_keys().items()}
