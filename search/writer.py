"""Optuna's storage for a study that has one writer: a trial begins, reports and ends in one short transaction each.

Anybody may write to a study through Optuna's own calls, so they ask each time whether a trial may still be changed,
look for what they are about to replace, and write parameters and attributes one after the other. A search holds its
study alone (`search.ownership`): here each row is written once, unseen, and rows of one table together. The tables are
Optuna's, by its own models, which is why pyproject.toml names one minor version of it.

Reports and ends may be stored twice with the same outcome; `search.postgres` makes it so for a start.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from search.errors import SearchStoppedError

INSERTS: Mapping[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class WriterStorage(RDBStorage):
    """Optuna's storage, whose calls for one trial are short."""

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Session
    ) -> models.TrialModel:
        """Store a trial that begins, whole. Optuna calls this with the study's row locked.

        Raises SearchStoppedError where the study has a trial that this search has not begun.
        """
        if template_trial is None or template_trial.state != TrialState.RUNNING:  # has more, or less, to be written
            return super()._get_prepared_new_trial(study_id, template_trial, session)
        trial: Any = models.TrialModel(
            study_id=study_id, number=None, state=template_trial.state, datetime_start=template_trial.datetime_start
        )
        session.add(trial)
        session.flush()  # it has an id from here on
        trial.number = trial.count_past_trials(session)
        if trial.number != template_trial.number:
            raise SearchStoppedError(
                f"another program has added trial {template_trial.number} to this study; type the same command again, "
                "which takes it up"
            )
        params = [
            {"param_name": name, "param_value": each.to_internal_repr(template_trial.params[name]),
             "distribution_json": distribution_to_json(each)} for name, each in template_trial.distributions.items()
        ]  # fmt: skip
        self._write(session, models.TrialParamModel, trial.trial_id, params, "param_name")
        self._write_attrs(session, trial.trial_id, template_trial.user_attrs, template_trial.system_attrs)
        return trial  # type: ignore[no-any-return]

    def report_trial(self, trial_id: int, step: int, value: float, system_attrs: Mapping[str, Any]) -> None:
        """Store a report, and what the pruner noted of it."""
        model = models.TrialIntermediateValueModel
        stored, kind = model.intermediate_value_to_stored_repr(value)
        rows = [{"step": step, "intermediate_value": stored, "intermediate_value_type": kind}]
        with _create_scoped_session(self.scoped_session) as session:
            self._write(session, model, trial_id, rows, "step")
            self._write_attrs(session, trial_id, {}, system_attrs)

    def end_trial(
        self, trial_id: int, state: TrialState, value: float | None, user_attrs: Mapping[str, Any],
        system_attrs: Mapping[str, Any],
    ) -> None:  # fmt: skip
        """Store how a trial ended. Raises SearchStoppedError where it has ended in another way."""
        trials: Any = models.TrialModel.__table__
        this, now = trials.c.trial_id == trial_id, datetime.now(UTC).replace(tzinfo=None)
        with _create_scoped_session(self.scoped_session) as session:
            ending = trials.update().where(this, trials.c.state == TrialState.RUNNING)
            if not session.execute(ending.values(state=state, datetime_complete=now)).rowcount:  # type: ignore[attr-defined]
                found = session.execute(trials.select().where(this)).one()
                if found.state != state:
                    raise SearchStoppedError(
                        f"another program has ended trial {found.number} of this study as {found.state.name}; type the "
                        "same command again, which goes on from there"
                    )
                return  # an earlier call did it, whose answer was lost
            self._write_attrs(session, trial_id, user_attrs, system_attrs)
            if value is not None:
                stored, kind = models.TrialValueModel.value_to_stored_repr(value)
                rows = [{"objective": 0, "value": stored, "value_type": kind}]
                self._write(session, models.TrialValueModel, trial_id, rows, "objective")

    def _write_attrs(
        self, session: Session, trial_id: int, user_attrs: Mapping[str, Any], system_attrs: Mapping[str, Any]
    ) -> None:
        for model, attrs in (
            (models.TrialUserAttributeModel, user_attrs), (models.TrialSystemAttributeModel, system_attrs)
        ):  # fmt: skip
            rows = [{"key": key, "value_json": json.dumps(value)} for key, value in attrs.items()]
            self._write(session, model, trial_id, rows, "key")

    def _write(self, session: Session, model: Any, trial_id: int, rows: Sequence[Mapping[str, Any]], key: str) -> None:
        """Rows of a trial, told apart by `key`; one that is there takes the new values."""
        if not rows:
            return
        insert = INSERTS[self.engine.name](model.__table__)
        new = {name: insert.excluded[name] for name in rows[0] if name != key}
        statement = insert.on_conflict_do_update(index_elements=["trial_id", key], set_=new)
        whole = [{"trial_id": trial_id, **row} for row in rows]
        session.execute(statement, whole if len(whole) > 1 else whole[0])  # for one row drivers have a shorter way
