"""The outcome of a search in Markdown: the note on the parent run, and the model card of a registered version."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from search.study.presenter import Decimals, present
from search.study.records import StudyRecord
from search.study.summary import Summary
from search.tracking.pages import WINNER

MAX_CLASSES = 30
"""A larger confusion matrix is left out of the model card."""


def note(study: StudyRecord, summary: Summary) -> str:
    """Write the note shown at the top of the parent run and of the winner's run."""
    return _render("note.md.j2", study=study, outcome=present(study, summary, Decimals()), star=WINNER)


def model_card(study: StudyRecord, summary: Summary, metadata: Mapping[str, Any], uri: str) -> str:
    """Write the card of a registered version from its metadata (`version.metadata`) and its URI."""
    return _render(
        "model_card.md.j2",
        study=study,
        outcome=present(study, summary, Decimals()),
        confusion=[[str(count or "") for count in counts] for counts in summary.confusion or ()],
        note=summary.note,
        metadata={"classes": (), "data": {}, **metadata},
        origin={"command": "", "seed": "", "versions": {}, **study.provenance},
        uri=uri,
    )


def _render(template: str, **values: object) -> str:
    text = _environment().get_template(template).render(values)
    return re.sub(r"\n{3,}", "\n\n", text).strip()  # paragraphs left out leave blank lines


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    strict = jinja2.StrictUndefined
    environment = jinja2.Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, undefined=strict)
    environment.filters["cell"] = _table_cell
    return environment


def _table_cell(text: str) -> str:
    """Keep bars and newlines inside a table cell from ending it."""
    return " ".join(text.split()).replace("|", "\\|")
