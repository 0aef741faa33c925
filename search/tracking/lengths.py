"""The longest texts that MLflow stores, and how longer ones are cut.

SQLite stores any length; PostgreSQL and MySQL refuse the whole request. The figures are those of
`mlflow.store.tracking.dbmodels`, `mlflow.store.model_registry.dbmodels` and `mlflow.utils.validation` in MLflow 3.17.2,
in characters. Where a table and a check differ, the smaller one counts. `search.study.space.mlflow_names` has the names
of params, metrics and tags.
"""

import hashlib

PARAM = 6_000
RUN_TAG_VALUE = 8_000
RUN_NAME = 250
EXPERIMENT_NAME = 256
EXPERIMENT_TAG_VALUE = 20_000
DATASET_NAME, DATASET_DIGEST, DATASET_SOURCE = 500, 36, 65_535
VERSION_DESCRIPTION = 5_000
VERSION_TAG_VALUE = 5_000  # of servers before 3.0; later ones take 100,000

METRICS_PER_REQUEST = 900  # MLflow's limits: 1,000 entries in a request, of which 100 params and 100 tags
PARAMS_PER_REQUEST = TAGS_PER_REQUEST = 50


def run_tag(name: str) -> int:
    """Return the limit of a run's tag. One tag is stored as the run's name too."""
    return RUN_NAME if name == "mlflow.runName" else RUN_TAG_VALUE


def cut(text: str, limit: int) -> str:
    """Return the text, or its beginning and `...`, without characters that a database refuses."""
    stored = text.encode("utf-8", "replace").decode().replace("\0", "?")  # surrogates and NUL
    return stored if len(stored) <= limit else f"{stored[: limit - 3].rstrip()}..."


def cut_distinct(text: str, limit: int) -> str:
    """Return the text, or its beginning and a digest: two texts that differ stay different."""
    if len(stored := cut(text, len(text))) <= limit:
        return stored
    return f"{stored[: limit - 9]}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}"
