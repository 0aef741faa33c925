"""Optuna's storage, with short transactions for a study that has one writer.

Optuna's own calls allow for several writers: each reads before it writes, one row at a time. A search holds the lock of
its study, so it writes the rows of a table together. Starting, reporting and ending a trial is one transaction each.
Each has the same outcome when it is made twice, as `storage.retry` does after an outage.

The tables and names from `_rdb` are private, as in Optuna 5.0.0; test_optuna_private.py checks them.
"""

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session as transaction
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from search.common.errors import SearchStoppedError

Attrs = Mapping[str, Any]

INSERTS: Mapping[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def _id_stored_before(row: Any, trial: FrozenTrial) -> int:
    """Return the id of the same trial, stored by an earlier call whose answer was lost."""
    if row.datetime_start == trial.datetime_start:
        return int(row.trial_id)
    raise SearchStoppedError(
        f"another program has added trial {trial.number} to this study; type the same command again, which resumes it"
    )


@functools.cache
def _upsert(database: str, table: Any, columns: tuple[str, ...], key: str) -> Any:
    """An insert of rows of a trial, or an update of those with the same `key`. Made once: that takes a millisecond."""
    insert = INSERTS[database](table)
    new_values = {name: insert.excluded[name] for name in columns if name != key}
    return insert.on_conflict_do_update(index_elements=["trial_id", key], set_=new_values)


class WriterStorage(RDBStorage):
    """Optuna's storage, with short calls for the trials of the only writer."""

    def start_trial(self, study_id: int, trial: FrozenTrial) -> int:
        """Store a running trial with its parameters and attributes; return its id.

        Raises SearchStoppedError when the study already has another trial of this number.
        """
        table, start = models.TrialModel, trial.datetime_start
        with transaction(self.scoped_session) as session:
            models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)  # locks the study's row
            row: Any = table(study_id=study_id, number=trial.number, state=TrialState.RUNNING, datetime_start=start)
            session.add(row)
            session.flush()  # gives the row its id
            others = session.query(table).filter(table.study_id == study_id, table.trial_id != row.trial_id)
            if other := others.filter_by(number=trial.number).first():
                stored_id = _id_stored_before(other, trial)
                session.rollback()
                return stored_id
            self._write_params(session, row.trial_id, trial, trial.distributions)
            self._write_attrs(session, row.trial_id, trial.user_attrs, trial.system_attrs)
            return int(row.trial_id)

    def count_trials(self, study_id: int) -> int:
        """Count the trials of a study. Optuna's own call reads all of them with everything they hold."""
        with transaction(self.scoped_session) as session:
            return int(session.query(models.TrialModel).filter_by(study_id=study_id).count())

    def add_params(self, trial_id: int, trial: FrozenTrial, names: Iterable[str], user_attrs: Attrs) -> None:
        """Store parameters of these names, which the storage lacks, and attributes.

        Optuna's own call refuses a parameter that a trial of another program has under another distribution.
        """
        with transaction(self.scoped_session) as session:
            self._write_params(session, trial_id, trial, names)
            self._write_attrs(session, trial_id, user_attrs, {})

    def note_trial(self, trial_id: int, system_attrs: Attrs) -> None:
        """Store notes of the sampler or the pruner."""
        with transaction(self.scoped_session) as session:
            self._write_attrs(session, trial_id, {}, system_attrs)

    def report_trial(self, trial_id: int, step: int, value: float, system_attrs: Attrs) -> None:
        """Store a reported value, with the pruner's notes in `system_attrs`."""
        model = models.TrialIntermediateValueModel
        stored, kind = model.intermediate_value_to_stored_repr(value)
        rows = [{"step": step, "intermediate_value": stored, "intermediate_value_type": kind}]
        with transaction(self.scoped_session) as session:
            self._write(session, model, trial_id, rows, "step")
            self._write_attrs(session, trial_id, {}, system_attrs)

    def end_trial(
        self, trial_id: int, state: TrialState, value: float | None, user_attrs: Attrs, system_attrs: Attrs
    ) -> None:
        """Store the end of a trial. Raises SearchStoppedError when it has already ended in another state."""
        with transaction(self.scoped_session) as session:
            if not self._set_ended(session, trial_id, state):
                return
            self._write_attrs(session, trial_id, user_attrs, system_attrs)
            if value is not None:
                stored, kind = models.TrialValueModel.value_to_stored_repr(value)
                rows = [{"objective": 0, "value": stored, "value_type": kind}]
                self._write(session, models.TrialValueModel, trial_id, rows, "objective")

    def _set_ended(self, session: Session, trial_id: int, state: TrialState) -> bool:
        """Set the state of a running trial. Return False if an earlier call, whose answer was lost, has set it."""
        trials: Any = models.TrialModel.__table__
        this_trial, now_utc = trials.c.trial_id == trial_id, datetime.now(UTC).replace(tzinfo=None)
        update = trials.update().where(this_trial, trials.c.state == TrialState.RUNNING)
        updated: Any = session.execute(update.values(state=state, datetime_complete=now_utc))
        if updated.rowcount:
            return True
        stored = session.execute(trials.select().where(this_trial)).one()
        if stored.state != state:
            raise SearchStoppedError(
                f"another program has ended trial {stored.number} of this study as {stored.state.name}; type the "
                "same command again, which continues from there"
            )
        return False

    def _write_params(self, session: Session, trial_id: int, trial: FrozenTrial, names: Iterable[str]) -> None:
        rows = []
        for name in names:
            distribution = trial.distributions[name]
            value, json_text = distribution.to_internal_repr(trial.params[name]), distribution_to_json(distribution)
            rows.append({"param_name": name, "param_value": value, "distribution_json": json_text})
        self._write(session, models.TrialParamModel, trial_id, rows, "param_name")

    def _write_attrs(self, session: Session, trial_id: int, user_attrs: Attrs, system_attrs: Attrs) -> None:
        tables = ((models.TrialUserAttributeModel, user_attrs), (models.TrialSystemAttributeModel, system_attrs))
        for model, attrs in tables:
            rows = [{"key": key, "value_json": json.dumps(value)} for key, value in attrs.items()]
            self._write(session, model, trial_id, rows, "key")

    def _write(self, session: Session, model: Any, trial_id: int, rows: Sequence[Attrs], key: str) -> None:
        """Insert rows of a trial, or update those with the same `key`."""
        if not rows:
            return
        statement = _upsert(self.engine.name, model.__table__, tuple(rows[0]), key)
        complete = [{"trial_id": trial_id, **row} for row in rows]
        session.execute(statement, complete if len(complete) > 1 else complete[0])  # faster for one row
