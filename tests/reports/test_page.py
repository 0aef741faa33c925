"""The report: written for every state of a study, safe, small, and drawn by a real browser with the network off."""

from __future__ import annotations

import io
import math
import random
import re
from pathlib import Path
from typing import Any

import optuna
import pytest
from browser import ALL_DRAWN, Overheard, chromium, needs_chromium, see_everything
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from PIL import Image
from report_studies import NASTY, OPTUNA_FIGURES, a_study, a_trial, classified, finished, mixed, text_of, written

from search.reports import page as report
from search.reports import tables
from search.reports.elements import Unit
from search.study import records
from search.study.records import StudyRecord
from search.study.storage.storage import quiet_optuna
from search.study.summary import Gain


@pytest.fixture(autouse=True)
def quiet() -> None:
    quiet_optuna()


def png(size: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (size, size), 128).save(buffer, "png")
    return buffer.getvalue()


def test_first_screen_shows_winner_accuracy_interval_gain_and_cost(tmp_path):
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
    assert "Only the figures of the test split are unbiased." in words
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


def test_page_needs_no_network(tmp_path):
    page = written(finished(a_study(mixed(12))), tmp_path, images={"Samples": png()})
    assert "default-src 'none'" in page
    assert not re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=[\"'](?!data:)", text_of(page))
    assert page.count("plotly.js v") == 1


def test_images_are_embedded_until_the_page_is_full(tmp_path, monkeypatch):
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


@pytest.mark.slow
def test_a_thousand_trials_stay_small(tmp_path):
    page = written(finished(a_study(mixed(1_000))), tmp_path)
    assert "Drawn from 90 of" in page
    assert page.count("<tr") > 1_000


def test_a_study_in_a_database_is_read(tmp_path):
    study = finished(a_study(mixed(6), storage=f"sqlite:///{tmp_path}/optuna.db"))
    assert "99.51%" in text_of(written(study, tmp_path))


# A real browser ----------------------------------------------------------------------------------------------------

NUMBERS = "[...document.querySelectorAll('#leaderboard tbody tr')].map(r => Number(r.cells[1].textContent.slice(1)))"


@needs_chromium
@pytest.mark.parametrize(
    ("scheme", "widths", "n", "others"),
    [
        pytest.param("light", (390,), 12, 0, id="phone", marks=pytest.mark.slow),
        pytest.param("light", (1_400, 390), 50, 0, id="50 trials", marks=pytest.mark.slow),
        pytest.param(
            "dark", (1_400, 390), 1_000, 1, id="1,000 trials, dark", marks=[pytest.mark.slow, pytest.mark.long]
        ),
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


@needs_chromium
@pytest.mark.slow
def test_on_a_phone_no_mode_bar_covers_a_legend_and_classes_scroll_in_their_frame(tmp_path: Path):
    names = [f"a class with a long name {index}" for index in range(30)]
    matrix = [[9 if row == column else (row + column) % 2 for column in range(30)] for row in range(30)]
    path = report.write_report(classified(matrix, [(name, 24, 9, 24) for name in names]), tmp_path / "r.html")
    with chromium(width_px=360, offline=True, has_touch=True, is_mobile=True) as phone:
        page = phone.new_page()
        page.goto(path.as_uri())
        see_everything(page, at_least=len(OPTUNA_FIGURES))
        assert page.locator(".modebar-btn").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    with chromium(offline=True) as desktop:
        page = desktop.new_page()
        page.goto(path.as_uri())
        see_everything(page, at_least=len(OPTUNA_FIGURES))
        assert page.locator(".modebar-btn").count() > 0


def test_a_stopped_search_is_called_stopped():
    study = a_study(mixed(6))
    for number, trial in enumerate(study.get_trials(deepcopy=False)):
        trial.user_attrs[records.ORIGIN] = f"uid/{number}"
    study.set_user_attr(records.UID, "uid")
    study.set_user_attr(records.TARGET, 8)
    page = report.render(study, others=(), images={})
    assert re.search(r"stopped: \d of 8 trials; run the same command again to continue", page)
    assert "1 running" not in page


def test_a_trial_outside_its_space_does_not_stop_the_report():
    study = a_study(mixed(6))
    outside = create_trial(value=0.5, params={"x": 0.5}, distributions={"x": FloatDistribution(0, 1)})
    outside.params = {"x": 9.0}  # as a user's baseline may be
    trials = [*study.get_trials(deepcopy=False), outside]
    study.get_trials = lambda *_, **__: trials  # type: ignore[method-assign]
    assert "9" in report.render(study, others=(), images={})
