"""Paths of everything that a search writes under `mlruns/`."""

import hashlib
import re
import tempfile
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from search.common.errors import UsageError


def slug(name: str) -> str:
    """Convert a name to a file name. If characters other than letters, digits, `.`, `-` and `_` go, add a digest."""
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:80]
    return plain if plain == name else f"{plain or 'study'}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


@dataclass(frozen=True)
class TrainingFiles:
    """Folders of checkpoints, and of weights of trials that may win. They hold one file per run."""

    checkpoints: Path
    weights: Path

    def checkpoint_of(self, run: str) -> Path:
        return self.checkpoints / f"{run}.pt"

    def weights_of(self, run: str) -> Path:
        return self.weights / f"{run}.pt"

    def sweep_checkpoints(self, resumed: Set[str]) -> None:
        """Remove checkpoints of trials that are not `resumed`, and partial files of killed processes."""
        for path in self.checkpoints.glob("*"):
            if path.name.startswith(".") or (path.name.startswith("trial-") and path.stem not in resumed):
                path.unlink()


@dataclass(frozen=True)
class Workspace:
    """The folder of a search: stores at its top, everything else under `mlruns/`."""

    root: Path

    @property
    def mlruns(self) -> Path:
        return self.root / "mlruns"

    def training_files(self, study: str, uid: str) -> TrainingFiles:
        folder = f"{slug(study)}-{uid}"
        return TrainingFiles(self.mlruns / "checkpoints" / folder, self.mlruns / "weights" / folder)

    def journal(self, study: str, uid: str) -> Path:
        return self.mlruns / "journal" / f"{slug(study)}-{uid}.db"

    def artifacts(self, study: str) -> Path:
        return self.mlruns / "artifacts" / slug(study)

    def report(self, study: str) -> Path:
        return self.mlruns / "reports" / f"{slug(study)}.html"

    def pictures(self, study: str) -> Path:
        """Return the image of the winner's sample predictions, which the report shows."""
        return self.mlruns / "reports" / f"{slug(study)}.png"

    @property
    def earlier_runs(self) -> Path | None:
        """A file of runs that MLflow before 3.7 wrote here. A bare `mlflow ui` reads those instead of mlflow.db."""
        return next((path for path in sorted(self.mlruns.glob("*/meta.yaml")) if path.parent.name.isdigit()), None)

    def check_writable(self) -> None:
        """Check that files can be created here, without leaving any. Raises UsageError otherwise."""
        folder = self.root
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise UsageError(f"--workspace {self.root} is not possible: {folder} is a file, not a folder")
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            advice = "run in another folder or name one with --workspace DIR"
            raise UsageError(f"--workspace {self.root} cannot be written ({error.strerror}); {advice}") from None
