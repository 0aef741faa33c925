"""Export a study as a table."""

import io

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
