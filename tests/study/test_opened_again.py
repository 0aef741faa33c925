"""A study that is opened again: settings that changed are named, and one of another program is refused."""

from __future__ import annotations

import optuna
import pytest
from optuna.storages import RDBStorage
from studies import STEPS, a_study
from toy import Toy

from objectives.images.objective import ImageClassification
from search.common.errors import StudyMismatchError
from search.study import records
from search.study.storage.storage import open_storage
from search.study.study import open_study

pytestmark = pytest.mark.usefixtures("quiet")


def test_a_changed_setting_is_an_error_that_names_it(database: str):
    storage = open_storage(database)
    open_study(storage, "toy", Toy(), "toy:Toy", 4)
    before = story_of(storage)
    other = Toy()
    other.data = "digest-2"
    cases = [
        (other, "toy:Toy", 4, r"data was digest-1, now digest-2"),
        (Toy("minimize"), "toy:Toy", 4, r"metric was maximize score, now minimize score"),
        (Toy(low=-2.0), "toy:Toy", 4, r"in its search space x was -1 to 1, now -2 to 1\."),
        (Toy(), "mine:Other", 4, r"objective was toy:Toy, now mine:Other"),
        (Toy(), "toy:Toy", 8, r"epochs was 4, now 8"),
    ]
    for objective, target, epochs, message in cases:
        with pytest.raises(
            StudyMismatchError, match=rf"(?s)study 'toy' was made with other settings: {message}.*--study toy-2"
        ):
            open_study(storage, "toy", objective, target, epochs)
    assert story_of(storage) == before


def story_of(storage: RDBStorage) -> dict[str, object]:
    return {study.study_name: study.user_attrs for study in storage.get_all_studies()}


def test_epochs_default_to_those_of_the_study(database: str):
    storage = open_storage(database)
    made = open_study(storage, "toy", Toy(), "toy:Toy", 4)
    assert open_study(storage, "toy", Toy(), "toy:Toy", None).study_id == made.study_id


def test_a_study_without_epochs_takes_the_first_number_given(database: str):
    storage = open_storage(database)
    made = open_study(storage, "toy", Toy(), "toy:Toy", None)
    assert open_study(storage, "toy", Toy(), "toy:Toy", 5).study_id == made.study_id
    assert made.epochs == 5
    with pytest.raises(StudyMismatchError, match="epochs was 5, now 6"):
        open_study(storage, "toy", Toy(), "toy:Toy", 6)


def test_a_study_of_another_program_is_an_error(database: str):
    optuna.create_study(study_name="toy", storage=database).add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(StudyMismatchError, match=r"study 'toy' was not made by this program; choose another name"):
        open_study(open_storage(database), "toy", Toy(), "toy:Toy", 4)


def test_a_study_is_created_again_after_a_kill_during_its_creation(database: str):
    storage = open_storage(database)
    storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "toy")
    a_study(storage).ask()
    assert open_study(storage, "toy", Toy(), "toy:Toy", STEPS).attrs()[records.METRIC] == "score"


def test_another_number_of_folds_is_an_error_that_names_both(database: str):
    class Folding(ImageClassification):
        n_folds = 4

    storage, objective = open_storage(database), Folding("digits")
    made = open_study(storage, "digits", objective, "mine:Folding", 4)
    for number in (5, 0):
        Folding.n_folds = number
        with pytest.raises(StudyMismatchError, match=rf"n_folds was 4, now {number}\.(?s:.)*--study digits-2"):
            open_study(storage, "digits", objective, "mine:Folding", 4)
    made.set_attr(records.FOLDS, None)  # as earlier versions made it
    assert open_study(storage, "digits", objective, "mine:Folding", 4).folds is None
