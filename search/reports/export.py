"""Export a study as a table."""

import csv
import io
from typing import Any

from search.study.records import StudyRecord


def export_study(study: StudyRecord, format_: str) -> bytes:
    """Return a table with one row per trial: its fields, then `params.*`, `metrics.*` and `constraints.*`.

    `format_`: `csv`, `json` or `parquet`.
    """
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

    rows = []
    for trial in study.all_trials:
        fields = trial.as_dict()
        nested = {part: fields.pop(part) for part in ("params", "metrics", "constraints")}
        del fields["intermediate"], fields["never_predicted"]  # lists
        rows.append(fields | {f"{part}.{key}": value for part in nested for key, value in nested[part].items()})
    table = pd.DataFrame(rows).convert_dtypes()
    for name in table.select_dtypes("object"):  # choices of mixed types
        table[name] = table[name].map(lambda value: None if value is None else str(value))
    if format_ == "parquet":
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        return buffer.getvalue()
    text = str(
        table.to_csv(index=False)
        if format_ == "csv"
        else table.to_json(orient="records", indent=2, double_precision=15)
    )
    return (text if text.endswith("\n") else f"{text}\n").encode()


def leaderboard(study: StudyRecord) -> bytes:
    """Return every trial with a value, best first, as CSV. Trials of other programs come last, without a rank."""
    names = sorted({name for trial in study.all_trials for name in trial.params})
    rows: list[list[Any]] = [["rank", "trial", "state", study.metric, "setting", "baseline", *names]]
    for rank, trial in enumerate(study.ranked(), start=1):
        row = [rank, trial.number, trial.state.name, trial.value, trial.label, trial.baseline or ""]
        rows.append([*row, *(trial.params.get(name, "") for name in names)])
    for trial in study.foreign:
        row = ["", trial.number, trial.state.name, trial.value, trial.label, ""]
        rows.append([*row, *(trial.params.get(name, "") for name in names)])
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
