"""All sheets of a set of records."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from anprompt.errors import UserError, choices
from anprompt.experiments.protocols import PROTOCOLS
from anprompt.experiments.records import Record
from anprompt.tables.attacks import attack_sheets
from anprompt.tables.base_to_new import base_to_new_sheets
from anprompt.tables.few_shot import few_shot_sheets
from anprompt.tables.figures import figure_sheets
from anprompt.tables.noise import noise_sheets
from anprompt.tables.rows import labels
from anprompt.tables.runs import REFERENCE, Batch, batches
from anprompt.tables.sheet import Sheet
from anprompt.tables.sound import sound_records
from anprompt.tables.transfer import transfer_sheets

LAYOUTS: dict[str, Callable[[Batch, str], list[Sheet]]] = {
    "halves": lambda batch, reference: [*base_to_new_sheets(batch, reference), *noise_sheets(batch, reference)],
    "noise": noise_sheets,
    "shots": few_shot_sheets,
    "targets": transfer_sheets,
    "figures": figure_sheets,
    "attacks": attack_sheets,
}  # fmt: skip


@sound_records()
def sheets(records: Iterable[Record], reference: str = "") -> list[Sheet]:
    """The tables of each protocol that the records are of; the order of the records changes nothing.

    Args:
        reference: method that the others are compared with, as tables name it; "" for anprompt where it is.

    Raises:
        UserError: no records, an unknown reference, or records that can't be told apart.
    """
    listed = list(records)
    if not listed:
        raise UserError("No run records to make a table of.")
    if reference and reference not in labels(listed):
        raise choices("reference method", reference, sorted(set(labels(listed))))
    found: list[Sheet] = []
    for batch in batches(listed):
        if batch.protocol not in PROTOCOLS:
            raise choices("protocol in a record", batch.protocol, PROTOCOLS)
        try:
            found += LAYOUTS[PROTOCOLS[batch.protocol].layout](batch, reference or REFERENCE)
        except KeyError as error:
            raise UserError(
                f"A {batch.protocol} record lacks {error}; it is of another version or was edited. Run it again."
            ) from error
    return found
