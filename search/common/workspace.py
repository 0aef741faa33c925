"""Every path that a search writes under `mlruns/`."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from search.common.errors import UsageError


def slug(name: str) -> str:
    """`name` as a file name: letters, digits, dot, dash and underscore stay; a name that has others gets a digest."""
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:80]
    return plain if plain == name else f"{plain or 'study'}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


@dataclass(frozen=True)
class TrainingFiles:
    """Files that trainings leave until the search ends, one for each run."""

    checkpoints: Path
    """Folder of the states to resume from."""
    weights: Path
    """Folder of the weights of trials that may win, kept until the winner is known."""

    def checkpoint_of(self, run: str) -> Path:
        return self.checkpoints / f"{run}.pt"

    def weights_of(self, run: str) -> Path:
        return self.weights / f"{run}.pt"

    def sweep_checkpoints(self, resumed: Set[str]) -> None:
        """Remove checkpoints of trials that are not `resumed`, and files that a kill left half written."""
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
        """The files that the trainings of a study leave."""
        folder = f"{slug(study)}-{uid}"
        return TrainingFiles(self.mlruns / "checkpoints" / folder, self.mlruns / "weights" / folder)

    def journal(self, study: str, uid: str) -> Path:
        return self.mlruns / "journal" / f"{slug(study)}-{uid}.db"

    def artifacts(self, study: str) -> Path:
        return self.mlruns / "artifacts" / slug(study)

    def report(self, study: str) -> Path:
        return self.mlruns / "reports" / f"{slug(study)}.html"

    def pictures(self, study: str) -> Path:
        """Image of the winner's sample predictions, shown in the report."""
        return self.mlruns / "reports" / f"{slug(study)}.png"

    def check_writable(self) -> None:
        """Raise UsageError when nothing could be written here; leave no trace either way."""
        folder = self.root
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise UsageError(f"--workspace {self.root} is not possible: {folder} is a file, not a folder")
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UsageError(
                f"--workspace {self.root} cannot be written ({error.strerror}); "
                "run in another folder or name one with --workspace DIR"
            ) from None
