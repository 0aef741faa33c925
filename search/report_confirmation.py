"""How the winner was confirmed, as the report shows it."""

from __future__ import annotations

from search.records import StudyRecord
from search.report_elements import Unit
from search.report_tables import Cell, amount
from search.summary import counted


def confirmation(record: StudyRecord) -> tuple[str, list[str], list[list[Cell]]] | None:
    """How the winner was confirmed: in a sentence or two, then column names and one row a candidate.

    None when it was not.
    """
    found = record.summary and record.summary.confirmation
    if not found or record.summary is None:
        return None
    unit = Unit.of(record)
    columns = ["Trial", "What it was", "Mean", "95% interval", "Spread", "Fresh seeds", "The search saw", "Weights", ""]
    rows = [
        [
            Cell(f"#{each.number}", each.number),
            Cell(each.label, each.label),
            Cell(unit.text(each.mean), each.mean),
            Cell(" to ".join(map(unit.text, found.interval(each) or ())), each.half),
            Cell(unit.half(each.spread), each.spread),
            Cell(", ".join(unit.text(value) for value in each.values) or "none came to its end"),
            Cell(unit.text(each.searched), each.searched),
            Cell(amount(each.parameters), each.parameters),
            Cell(record.fate(each)),
        ]
        for each in found.candidates
    ]
    text = (
        f"The best trials were trained again, each on {counted(found.seeds, 'fresh seed')}: a value that was chosen "
        "for being good is too good on average, a fresh one is not. What stays is the luck of the validation split, "
        f"which all trials share. {found.trust(record.considered).capitalize()}. Means that noise cannot tell apart go "
        "to the smaller network."
    )
    if record.summary.test:
        text += " Only the test figure is unbiased."
    if refit := record.summary.refit:
        text += (
            f" The winner was then trained anew on all {refit['images']:,} images that are not for testing, for "
            f"{refit['epochs']} epochs; that network was tested and registered."
        )
    return text, columns, rows
