"""Studies in every state for the tests of the report, made without training."""

from __future__ import annotations

import math
import random
import re
import warnings
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.reports import page as report
from search.study.records import StudyRecord
from search.study.summary import Candidate, Confirmation, Summary

BEGIN = datetime(2025, 11, 20, 9)
OPTUNA_FIGURES = {"history", "importances", "slice", "parallel", "contour", "rank", "intermediate", "edf", "timeline"}
NASTY = "</script><script>alert('x')</script><img src=x onerror=alert(1)>"


def a_trial(number: int, state: TrialState, rng: random.Random, **attrs: Any) -> FrozenTrial:
    """An mlp or cnn trial with conditional parameters, eight epochs long."""
    params: dict[str, Any] = {"family": rng.choice(["mlp", "cnn"]), "lr": 10 ** rng.uniform(-4, -1)}
    spaces: dict[str, Any] = {
        "family": CategoricalDistribution(["mlp", "cnn"]),
        "lr": FloatDistribution(1e-4, 1e-1, log=True),
    }
    name = "mlp_depth" if params["family"] == "mlp" else "cnn_blocks"
    params[name], spaces[name] = rng.randint(1, 4), IntDistribution(1, 4)
    top = 0.99 - 0.01 * abs(math.log10(params["lr"]) + 2.5)
    epochs = {TrialState.COMPLETE: 8, TrialState.PRUNED: 3}.get(state, 0)
    reports = {epoch: top - 0.2 * math.exp(-epoch) + rng.gauss(0, 0.001) for epoch in range(1, epochs + 1)}
    failed = {"failure": "diverged", "failure_message": f"loss is nan {NASTY}"} if state == TrialState.FAIL else {}
    trial = create_trial(
        state=state,
        value=reports[8] if state == TrialState.COMPLETE else None,
        params=params,
        distributions=spaces,
        intermediate_values=reports,
        user_attrs={
            "label": f"{params['family']} {params['lr']:.1e}",
            "slot": number % 2,
            "metrics": {"train_seconds": 4 + rng.random(), "parameters": 10 ** rng.randint(4, 6), "epochs": epochs},
            **failed,
            **attrs,
        },
    )
    trial.datetime_start = BEGIN + timedelta(seconds=5 * (number // 2))
    if state.is_finished():
        trial.datetime_complete = trial.datetime_start + timedelta(seconds=4.8)
    return trial


def a_study(states: Sequence[TrialState], *, storage: str | None = None, name: str = "mnist") -> optuna.Study:
    study = optuna.create_study(direction="maximize", study_name=name, storage=storage)
    rng = random.Random(7)
    study.add_trials([a_trial(number, state, rng) for number, state in enumerate(states)])
    study.set_user_attr("metric", "val_accuracy")
    study.set_user_attr("steps_per_epoch", 1)
    return study


def finished(study: optuna.Study) -> optuna.Study:
    """Add the attributes that a search stores at its end."""
    best = study.best_trial
    ranked = StudyRecord.of(study).ranked()[:3]
    fresh = [(0.985, 0.987), (0.975, 0.977), (0.965,)]
    tried = tuple(
        Candidate(trial.number, trial.label, trial.value or 0.0, 10_000, values, half=0.0042)
        for trial, values in zip(ranked, fresh, strict=False)
    )
    summary = Summary(
        number=best.number,
        label=best.user_attrs["label"],
        value=best.value or 0.0,
        params=best.params,
        run=f"refit-{best.number}",
        confirmation=Confirmation(tried, 2, 0.0014, 10_000),
        refit={"epochs": 16, "seconds": 20.0, "images": 60_000},
        test={"accuracy": 0.9951, "low": 0.9935, "high": 0.9963, "loss": 0.02, "n": 10_000},
        model={"name": "mnist", "version": 3, "alias": "champion", "uri": "models:/mnist@champion"},
    )
    study.set_user_attr("summary", summary.as_dict())
    study.set_user_attr("test_reads", [{"number": best.number, "run": "refit", "time": "2026-01-01T00:00:00"}])
    study.set_user_attr("provenance", {"command": "python -m search", "versions": {"torch": "2.15.0"}, "note": NASTY})
    study.set_user_attr(
        "sessions",
        [
            {"started": "2025-11-20T09:00:00", "wall_s": 40.0, "search_s": 1.0, "tracking_s": 3.0, "slots": 2},
        ],
    )
    return study


def mixed(n: int) -> list[TrialState]:
    """Mostly complete, some pruned, a few failed."""
    return [
        TrialState.FAIL if i % 10 == 4 else TrialState.PRUNED if i % 3 == 2 else TrialState.COMPLETE for i in range(n)
    ]


def classified(confusion: list[list[int]] | None, scores: list[tuple[str, int, int, int]]) -> optuna.Study:
    """A finished study with a network that was tested on these classes."""
    study = finished(a_study(mixed(12)))
    classes = [dict(zip(("name", "images", "correct", "predicted"), score, strict=True)) for score in scores]
    summary = study.user_attrs["summary"] | {"confusion": confusion, "classes": classes}
    study.set_user_attr("summary", summary)
    return study


# Pages ----------------------------------------------------------------------------------------------------------------


def text_of(page: str) -> str:
    """The page without scripts and styles."""
    return re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)


def written(study: optuna.Study, tmp_path: Path, **more: Any) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = report.write_report(study, tmp_path / "reports" / "r.html", **more)
    assert path.stat().st_size < 8_000_000
    return path.read_text()


def section(page: str, key: str) -> str:
    """The words of one section of a page."""
    found = re.search(rf'<section id="{key}">.*?</section>', text_of(page), re.S)
    assert found
    return " ".join(re.sub(r"<[^>]+>", " ", found[0]).split())
