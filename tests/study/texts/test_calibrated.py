"""How probabilities were calibrated, in words."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from search.study.summary import Calibration, CalibrationErrors, Summary
from search.study.texts.calibrated import calibration_text

SUMMARY = Summary(number=3, label="mlp", value=0.5, params={}, run="refit-3")
ERRORS = CalibrationErrors(0.0345, 0.0062), CalibrationErrors(0.021, 0.0049)
FITTED = Calibration(1.234, ("confirm-3-1", "confirm-3-2"), *ERRORS)


@pytest.mark.parametrize(
    ("calibration", "text"),
    [
        (None, ""),
        (
            FITTED,
            "temperature 1.234, fitted on validation predictions of 2 fresh seeds; expected calibration error "
            "2.10% -> 0.49% on test images, 3.45% -> 0.62% on validation images",
        ),
        (
            replace(FITTED, runs=("trial-3",), test=None),
            "temperature 1.234, fitted on validation predictions of this trial, which was selected for its value; "
            "expected calibration error 3.45% -> 0.62% on validation images",
        ),
        (
            replace(FITTED, test=None, left_out="the network of confirm-3-3 gives logits that are not finite"),
            "temperature 1.234, fitted on validation predictions of 2 fresh seeds "
            "(the network of confirm-3-3 gives logits that are not finite); "
            "expected calibration error 3.45% -> 0.62% on validation images",
        ),
        (Calibration(missing="they are gone"), "not calibrated, because they are gone"),
    ],
)
def test_texts(calibration: Calibration | None, text: str):
    assert calibration_text(replace(SUMMARY, calibration=calibration)) == text


@pytest.mark.parametrize("calibration", [None, FITTED, Calibration(missing="they are gone")])
def test_it_is_stored_and_read_again(calibration: Calibration | None):
    summary = replace(SUMMARY, calibration=calibration)
    assert Summary.from_dict(json.loads(json.dumps(summary.as_dict()))) == summary


def test_its_figures_are_those_of_every_page():
    assert SUMMARY.temperature == 1
    assert SUMMARY.figures("val_accuracy") == {"best_val_accuracy": 0.5}
    assert replace(SUMMARY, calibration=FITTED).figures("val_accuracy") == {
        "best_val_accuracy": 0.5,
        "temperature": 1.234,
        "val_ece": 0.0062,
        "val_ece_uncalibrated": 0.0345,
        "test_ece": 0.0049,
        "test_ece_uncalibrated": 0.021,
    }


def test_a_study_of_an_earlier_version_has_none():
    stored = SUMMARY.as_dict()
    del stored["calibration"]
    assert Summary.from_dict(stored) == SUMMARY
