"""Paths of everything that a search writes under `mlruns/`.

A study's files are found by its uid. Its name is for users: Optuna's tools can change it.
"""

import glob
import hashlib
import re
import tempfile
import unicodedata
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from search.common.errors import UsageError

SLUG_BYTES = 180  # of the 255 that a file name may have; what is added to it needs the rest
MAX_STUDY_NAME = 240  # MLflow's table has 250 characters for the name of a run, here `search NAME`


def slug(name: str) -> str:
    """Convert a name to a file name. If characters other than letters, digits, `.`, `-` and `_` go, add a digest."""
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:80]
    plain = plain.encode()[:SLUG_BYTES].decode(errors="ignore")
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:6]
    return plain if plain == name else f"{plain or 'study'}-{digest}"


def check_study_name(name: str, source: str) -> None:
    """Raise UsageError for a name that a terminal, MLflow or Optuna cannot hold. `source` says who gave it."""
    advice = "give another name with --study NAME"
    if not name.strip():
        raise UsageError(f"{source} {name!r} is an empty name of a study; {advice}")
    if len(name) > MAX_STUDY_NAME:
        raise UsageError(
            f"{source} {name[:20]!r}... is too long for the name of a study: {len(name)} characters, "
            f"at most {MAX_STUDY_NAME}; {advice}"
        )
    if wrong := sorted({c for c in name if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")}):
        shown = ", ".join(map(ascii, wrong))
        raise UsageError(f"{source} {name!a} has characters that cannot be shown ({shown}); {advice}")


@dataclass(frozen=True)
class TrainingFiles:
    """Folders of checkpoints, and of weights of trials that may win. They hold one file per run."""

    checkpoints: Path
    weights: Path

    def checkpoint_of(self, run: str) -> Path:
        return self.checkpoints / f"{run}.pt"

    def model_of(self, run: str) -> Path:
        """The program that a running function has logged."""
        return self.checkpoints / f"{run}.model"

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
        return TrainingFiles(self._of("checkpoints", study, uid), self._of("weights", study, uid))

    def journal(self, study: str, uid: str) -> Path:
        return self._of("journal", study, uid, ".db")

    def _of(self, kind: str, study: str, uid: str, suffix: str = "") -> Path:
        """Return the path of a study's file or folder. It keeps the name that the study had when it was made."""
        path = self.mlruns / kind / f"{slug(study)}-{uid}{suffix}"
        if path.exists():
            return path
        return next(iter(sorted(path.parent.glob(f"*-{glob.escape(uid)}{suffix}"))), path)

    def artifacts(self, study: str) -> Path:
        return self.mlruns / "artifacts" / slug(study)

    def report(self, study: str) -> Path:
        return self.mlruns / "reports" / f"{slug(study)}.html"

    def pictures(self, study: str, uid: str) -> Path:
        """Return the image of the winner's sample predictions, which the report shows."""
        path, early = self._of("reports", study, uid, ".png"), self.mlruns / "reports" / f"{slug(study)}.png"
        return early if early.exists() and not path.exists() else path

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
