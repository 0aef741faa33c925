"""The report: written for every state of a study, safe, small, and drawn by a real browser with the network off."""

from __future__ import annotations

import io
import math
import random
import re
import warnings
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from browser import ALL_DRAWN, Overheard, chromium, needs_chromium, see_everything
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from PIL import Image

from search.common.direction import Direction
from search.reports import charts, tables
from search.reports import page as report
from search.reports.elements import Unit, focus
from search.reports.frozen_study import frozen, thinned
from search.reports.timing import SearchTime
from search.study.records import StudyRecord
from search.study.storage.storage import quiet_optuna
from search.study.summary import Candidate, Confirmation, Gain, Summary

BEGIN = datetime(2025, 11, 20, 9)
OPTUNA_FIGURES = {"history", "importances", "slice", "parallel", "contour", "rank", "intermediate", "edf", "timeline"}
NASTY = "</script><script>alert('x')</script><img src=x onerror=alert(1)>"


@pytest.fixture(autouse=True)
def quiet() -> None:
    quiet_optuna()


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
    """With everything that a search leaves behind at its end."""
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


def text_of(page: str) -> str:
    """What stands in the page outside of scripts and styles."""
    return re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)


def written(study: optuna.Study, tmp_path: Path, **more: Any) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = report.write_report(study, tmp_path / "reports" / "r.html", **more)
    assert path.stat().st_size < 8_000_000
    return path.read_text()


def png(size: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (size, size), 128).save(buffer, "png")
    return buffer.getvalue()


# The first screen and the words ------------------------------------------------------------------------------------


def test_limits_are_drawn_and_what_is_above_them_is_not_on_the_front():
    study = a_study([TrialState.COMPLETE] * 8)
    study.set_user_attr("fingerprint", {"max_parameters": 50_000, "max_latency_ms": None})
    best = max(study.trials, key=lambda trial: trial.value or 0.0)
    above = create_trial(
        value=1.0,
        intermediate_values={1: 1.0},
        user_attrs={"metrics": {"parameters": 400_000, "latency_ms": 2.0}},
        constraints={"parameters": 7.0},
    )
    refused = create_trial(state=TrialState.PRUNED, constraints={"parameters": 1.0})
    study.add_trials([above, refused])
    record = StudyRecord.of(study)
    chart = charts.against_cost(record, "parameters", "Against model size", "weights")
    assert "The dashed line is the limit, 50,000. 1 more above it, not trained." in chart.caption
    assert chart.figure is not None
    traces = {trace["name"]: trace for trace in chart.figure["data"]}
    assert traces["above a limit"]["x"] == [400_000.0]
    assert 400_000.0 not in traces["Pareto front"]["x"]
    assert traces["limit"]["x"] == [50_000] * 2
    assert traces["winner"]["y"] == [best.value]
    assert "cost-latency-ms" in report.render(study, others=(), images={})


def test_first_screen_says_winner_accuracy_interval_gain_and_cost(tmp_path):
    study = a_study(mixed(30))
    study.add_trial(a_trial(30, TrialState.COMPLETE, random.Random(1), baseline="two-conv CNN"))
    finished(study)
    page = text_of(written(study, tmp_path))
    best = study.best_trial
    assert "99.51%" in page
    assert "95% interval 99.35% to 99.63% on 10,000 test images, measured once" in page
    assert f"<b>#{best.number}</b> {best.user_attrs['label']}" in page
    assert "two-conv CNN" in page
    assert re.search(r"[+-]\d\.\d\d points", page)
    assert "40 s" in page
    assert "models:/mnist@champion" in page


def test_confirmation_shows_candidates_values_and_verdicts(tmp_path):
    study = finished(a_study(mixed(12)))
    stored = study.user_attrs["summary"]
    baseline = next(trial for trial in study.trials if trial.number != stored["number"])
    page = text_of(written(study, tmp_path))
    section = re.search(r'<section id="confirmation">.*?</section>', page, re.S)
    assert section
    words = re.sub(r"<[^>]+>", " ", section[0])
    assert "on up to 2 fresh seeds each" in words
    assert re.search(r"95% intervals, corrected for picking the best of \d+ trials\.", words)
    assert "Only the test accuracy is unbiased." in words
    assert "trained on training and validation images together: 60,000 images, 16 epochs" in words
    assert "98.18% to 99.02%" in words
    assert len(re.findall(r"\d% to \d", words)) == 3
    assert "98.50%, 98.70%" in words
    assert "clearly behind, dropped early" in words
    assert re.search(r"10,000\s+winner", words)
    dots = {dot.label: dot for dot in tables.dots(StudyRecord.of(study))}
    assert dots["Winner, confirmed"].text == "98.60%"
    assert dots["Winner, confirmed"].interval is not None
    gain = Gain("two-conv CNN", baseline.number, 0.97, 0.016, 0.004)
    assert Unit("validation accuracy", percent=True).gain(gain.gain, gain.half) == "+1.60 ± 0.40 points"


def test_running_study_shows_the_best_so_far(tmp_path):
    page = text_of(written(a_study([*mixed(8), TrialState.RUNNING]), tmp_path))
    assert "best so far, not yet tested" in page
    assert "1 running" in page


@pytest.mark.parametrize(
    ("states", "words"),
    [
        pytest.param([], "The search has not started a trial yet.", id="empty"),
        pytest.param([TrialState.FAIL] * 4, "All 4 trials failed; see Failures below.", id="all failed"),
        pytest.param([TrialState.PRUNED] * 4, "All 4 trials were pruned.", id="all pruned"),
        pytest.param([TrialState.RUNNING], "No trial has completed yet.", id="running"),
        pytest.param([TrialState.COMPLETE], "best so far, not yet tested", id="one trial"),
    ],
)
def test_any_state_of_a_study_can_be_reported(tmp_path, states, words):
    page = text_of(written(a_study(states), tmp_path))
    assert words in page
    for key in OPTUNA_FIGURES:
        assert f'id="chart-{key}"' in page


def test_minimised_losses_of_a_foreign_study(tmp_path):
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=6)
    page = text_of(written(study, tmp_path))
    assert f"{study.best_value:.5g}" in page
    rank_one = re.search(r"<tr class=\"best\"><td[^>]*>1</td><td[^>]*>#(\d+)</td>", page)
    assert rank_one
    assert int(rank_one[1]) == study.best_trial.number


def test_constant_values_and_odd_values_leave_notes(tmp_path):
    study = optuna.create_study(direction="maximize")
    space = {"x": FloatDistribution(0, 1)}
    for value in (0.5, 0.5, 0.5, 0.5, math.inf):
        study.add_trial(create_trial(value=value, params={"x": 0.5}, distributions=space))
    page = text_of(written(study, tmp_path))
    assert "Needs 1 parameter with different values among completed trials." in page


def test_text_from_outside_is_escaped(tmp_path):
    study = optuna.create_study(direction="maximize", study_name=NASTY)
    space = {NASTY: CategoricalDistribution([NASTY, "b"])}
    for index, value in enumerate((NASTY, "b", NASTY, "b", "b")):
        study.add_trial(
            create_trial(
                value=0.1 * index,
                params={NASTY: value},
                distributions=space,
                user_attrs={"label": NASTY, "baseline": NASTY},
            )
        )
    study.add_trial(a_trial(5, TrialState.FAIL, random.Random(0)))
    study.set_user_attr("provenance", {NASTY: NASTY})
    page = written(study, tmp_path, images={NASTY: png()})
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;" in page


def test_page_asks_nothing_of_the_network(tmp_path):
    page = written(finished(a_study(mixed(12))), tmp_path, images={"Samples": png()})
    assert "default-src 'none'" in page
    assert not re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=[\"'](?!data:)", text_of(page))
    assert page.count("plotly.js v") == 1


def test_images_are_embedded_until_the_room_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MAX_IMAGE_BYTES", 2_000)
    page = text_of(written(a_study([]), tmp_path, images={"small": png(), "large": b"\x89PNG" * 2_000}))
    assert page.count("data:image/png;base64,") == 1
    assert "Left out to keep this file small." in page


def test_failures_are_grouped_by_kind():
    study = a_study([TrialState.FAIL] * 3)
    study.add_trial(a_trial(3, TrialState.FAIL, random.Random(0), failure="out_of_memory", failure_message="full"))
    kinds = tables.failures(StudyRecord.of(study))
    assert [(kind["kind"], kind["n"]) for kind in kinds] == [("diverged", 3), ("out of memory", 1)]
    assert kinds[0]["messages"][0][1] == "#0, #1, #2"


def test_studies_are_compared_side_by_side(tmp_path):
    page = text_of(written(a_study(mixed(20)), tmp_path, others=[a_study(mixed(10), name="other one")]))
    assert "Side by side" in page
    assert "other one" in page
    assert all(f'id="chart-{key}"' in page for key in ("compared-trials", "compared-time", "edf-compared"))


def test_a_thousand_trials_stay_small(tmp_path):
    page = written(finished(a_study(mixed(1_000))), tmp_path)
    assert "Drawn from 90 of" in page
    assert page.count("<tr") > 1_000


def test_a_study_in_a_database_is_read(tmp_path):
    study = finished(a_study(mixed(6), storage=f"sqlite:///{tmp_path}/optuna.db"))
    assert "99.51%" in text_of(written(study, tmp_path))


# Charts ------------------------------------------------------------------------------------------------------------


def test_every_optuna_figure_is_drawn_for_an_ordinary_study():
    page = report.render(a_study(mixed(30)), others=(), images={})
    assert set(re.findall(r'data-figure="([\w-]+)"', page)) >= OPTUNA_FIGURES


def test_charts_see_trials_without_attributes_under_their_own_numbers():
    study = a_study(mixed(12))
    copy = frozen(study)
    study.add_trial(a_trial(12, TrialState.COMPLETE, random.Random(0)))
    facts = [(t.number, t.state, t.values, t.params, t.intermediate_values, t.datetime_start) for t in study.trials]
    seen = [(t.number, t.state, t.values, t.params, t.intermediate_values, t.datetime_start) for t in copy.trials]
    assert seen == facts[:12]
    assert [trial.user_attrs for trial in copy.trials] == [{}] * 12


def test_waiting_trials_are_copied_whatever_became_of_them():
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage)
    for _ in range(2):
        study.enqueue_trial({"x": 0.5})
    storage.set_trial_state_values(0, TrialState.FAIL)  # it has no start
    assert [trial.state for trial in frozen(study).trials] == [TrialState.FAIL, TrialState.WAITING]


def test_a_thinned_study_keeps_the_best_trials_and_their_numbers():
    study = a_study(mixed(30))
    done = thinned(study, 6).get_trials(states=(TrialState.COMPLETE,))
    ranked = sorted(study.get_trials(states=(TrialState.COMPLETE,)), key=lambda trial: -trial.value)
    assert len(done) == 6
    assert {trial.number for trial in ranked[:3]} <= {trial.number for trial in done}
    assert all(trial.params == study.trials[trial.number].params for trial in done)


def test_steps_are_shown_as_epochs():
    study = a_study(mixed(9))
    study.set_user_attr("steps_per_epoch", 4)
    chart = charts.best_curves(StudyRecord.of(study))
    assert chart.figure
    assert chart.figure["layout"]["xaxis"]["title"]["text"] == "epoch"
    assert max(max(trace["x"]) for trace in chart.figure["data"]) == 2.0


def test_pareto_front_has_no_trial_that_another_one_beats():
    record = StudyRecord.of(a_study([TrialState.COMPLETE] * 40))
    front = charts.pareto_front(record.trials, "train_seconds", Direction.MAXIMIZE)
    for trial in front:
        rivals = [t for t in record.trials if t.metrics["train_seconds"] < trial.metrics["train_seconds"]]
        assert all((rival.value or 0) < (trial.value or 0) for rival in rivals)
    assert record.ranked()[0] in front


def test_time_of_search_has_no_pauses():
    states = [TrialState.COMPLETE] * 4
    study = optuna.create_study(direction="maximize")
    for number, state in enumerate(states):
        trial = a_trial(number, state, random.Random(number))
        trial.datetime_start = BEGIN + timedelta(seconds=10 * number, days=number // 2)
        trial.datetime_complete = trial.datetime_start + timedelta(seconds=10)
        study.add_trial(trial)
    time = SearchTime.of(StudyRecord.of(study).trials)
    assert time.total_s == pytest.approx(40)
    assert time.at(BEGIN + timedelta(days=1, seconds=25)) == pytest.approx(25)


def test_focus_leaves_out_failures_but_not_ordinary_spread():
    ordinary = [0.98 + 0.001 * i for i in range(12)]
    assert focus(ordinary, maximize=True) is None
    span = focus([*ordinary, 0.1], maximize=True)
    assert span
    assert span[0] > 0.9
    assert focus([*ordinary, 0.1], maximize=False) is None


# A real browser ----------------------------------------------------------------------------------------------------

NUMBERS = "[...document.querySelectorAll('#leaderboard tbody tr')].map(r => Number(r.cells[1].textContent.slice(1)))"


@needs_chromium
@pytest.mark.parametrize(
    ("scheme", "widths", "n", "others"),
    [
        pytest.param("light", (390,), 12, 0, id="phone", marks=pytest.mark.slow),
        pytest.param("light", (1_400, 390), 50, 0, id="50 trials", marks=pytest.mark.slow),
        pytest.param("dark", (1_400, 390), 1_000, 1, id="1,000 trials, dark", marks=pytest.mark.slow),
    ],
)
def test_report_in_chromium_without_network(tmp_path, scheme, widths, n, others):
    study = finished(a_study(mixed(n)))
    compared = [a_study(mixed(9), name=f"other {index}") for index in range(others)]
    path = report.write_report(study, tmp_path / "r.html", others=compared)
    with chromium(width_px=widths[0], offline=True) as browser:
        page = browser.new_page()
        heard = Overheard.on(page)
        page.goto(path.as_uri())
        for width in widths:
            page.set_viewport_size({"width": width, "height": 900})
            see_everything(page, at_least=len(OPTUNA_FIGURES) + 4)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        if scheme == "dark":
            page.emulate_media(color_scheme="dark")
            page.wait_for_function(ALL_DRAWN)
        _sorts_by_clicking(page, n)
    assert heard.complaints == []
    assert heard.of_network() == []


def _sorts_by_clicking(page: Any, n: int) -> None:
    page.locator("#leaderboard thead button", has_text="Trial").click()
    assert page.evaluate(NUMBERS) == list(range(n))
    page.locator("#leaderboard thead button", has_text="Trial").click()
    assert page.evaluate(NUMBERS) == list(reversed(range(n)))
