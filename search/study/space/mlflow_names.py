"""Names of parameters, metrics and tags in MLflow, which refuses some, and with one of them all others of a request.

Source: `_validate_param_name` and `_validate_metric_name` of mlflow.utils.validation, in MLflow 3.17.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator

from objectives.failures import describe_value

MAX_LENGTH = 250
MARK_LENGTH = 6


def mlflow_name(name: str) -> str:
    """A name that MLflow takes: `lr _log_` for `lr (log)`, and the same name if MLflow takes it."""
    parts = re.sub(r"[^/\w.\- :]", "_", name).split("/")
    valid = "/".join(re.sub(r"^\.*$", "_", part) for part in parts)  # empty, `.` and `..` would be other paths
    valid = re.sub(r"^\.\.", "__", valid)
    return valid if len(valid) <= MAX_LENGTH else _marked(valid, name)


def _marked(valid: str, name: str) -> str:
    """A valid name that ends with a mark of the original name."""
    mark = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:MARK_LENGTH]
    return f"{valid[: MAX_LENGTH - MARK_LENGTH - 1]}-{mark}"


class MlflowNames:
    """The names in MLflow of one study's parameters, or of its metrics. Different names stay different."""

    def __init__(self, kind: str) -> None:
        """`kind`: `parameter` or `metric`."""
        self._kind = kind
        self._owners: dict[str, str] = {}  # the original name, by the one in MLflow

    def of(self, names: Iterable[str]) -> dict[str, str]:
        """The name in MLflow of each name. Those that MLflow takes come first, so that they keep theirs."""
        return {name: self._name(name) for name in sorted(names, key=lambda name: mlflow_name(name) != name)}

    def _name(self, name: str) -> str:
        valid = mlflow_name(name)
        return valid if self._owners.setdefault(valid, name) == name else _marked(valid, name)

    def changes(self, names: Iterable[str]) -> Iterator[str]:
        """A notice about each name that is another one in MLflow."""
        for name, key in self.of(names).items():
            if key != name:
                shown = f"{self._kind} {describe_value(name, 80)}"
                yield f"MLflow does not take the name of {shown}; it is {describe_value(key, 80)} there"
