"""Functions as people write them for `study.optimize`."""

import sys
import threading
import warnings

import numpy as np
import optuna


def every_kind(trial):
    x = trial.suggest_float("x", -1, 1)
    y = trial.suggest_float("y", 1e-5, 1.0, log=True)
    z = trial.suggest_float("z", 0, 1, step=0.25)
    n = trial.suggest_int("n", 1, 9, step=2)
    m = trial.suggest_int("m", 1, 1000, log=True)
    c = trial.suggest_categorical("c", ["a", 2, 3.5, None, True])
    return x + y + z + n + m + len(str(c))


def depends(trial):
    layers = trial.suggest_int("layers", 1, 3)
    units = [trial.suggest_int(f"units_{index}", 1, 10 * (index + 1)) for index in range(layers)]
    if trial.suggest_categorical("kind", ("sgd", "adam")) == "sgd":
        trial.suggest_float("momentum", 0.0, 0.9)
    return sum(units)


def same_name_twice(trial):
    first = trial.suggest_float("x", 0, 1)
    assert trial.suggest_float("x", 0, 1) == first
    return trial.suggest_float("x", 0, 2)


def other_choices(trial):
    trial.suggest_categorical("c", ["a", "b"])
    return trial.suggest_categorical("c", ["a", "z"])


def other_kind(trial):
    trial.suggest_float("x", 0, 1)
    return trial.suggest_int("x", 0, 1)


def old_names(trial):
    x = trial.suggest_uniform("x", 0, 1)
    return x + trial.suggest_loguniform("y", 0.1, 1) + trial.suggest_discrete_uniform("z", 0, 1, 0.1)


def uneven_step(trial):
    return trial.suggest_float("x", 0, 1, step=0.3) + trial.suggest_int("n", 0, 10, step=3)


def keywords(trial):
    x = trial.suggest_float(name="x", low=0, high=1)
    n = trial.suggest_int(high=9, low=1, name="n", log=True)
    c = trial.suggest_categorical(choices=["a", "b"], name="c")
    trial.report(step=0, value=x)
    trial.set_user_attr(value=c, key="c")
    return x + n


def wrong_bounds(trial):
    return trial.suggest_float("x", 2, 1)


def wrong_log(trial):
    return trial.suggest_float("x", 0, 1, log=True)


def step_and_log(trial):
    return trial.suggest_int("n", 1, 8, step=2, log=True)


def no_choices(trial):
    return trial.suggest_categorical("c", [])


def positional_step(trial):
    return trial.suggest_float("x", 0, 1, 0.5)


def reports(trial):
    x = trial.suggest_float("x", 0, 1)
    for step in range(6):
        trial.report(x * step, step)
        if trial.should_prune():
            raise optuna.TrialPruned(f"at {step}")
    return x


def pruned_at_once(trial):
    raise optuna.exceptions.TrialPruned


def reported_twice(trial):
    trial.report(1, 0)
    trial.report(2, 0)
    return 1.0


def reported_text(trial):
    trial.report("much", 0)


def reported_nowhere(trial):
    trial.report(1.0, None)


def reported_before(trial):
    trial.report(1.0, -1)


def attributes(trial):
    trial.set_user_attr("list", [1, 2.5, None])
    trial.set_user_attr("numpy", np.float32(0.5))
    trial.set_user_attr("nested", {"a": (1, np.int64(2))})
    assert trial.user_attrs["numpy"] == 0.5
    assert trial.user_attrs["nested"]["a"][1] == 2
    return 0.0


def constraints(trial):
    trial.set_constraint("size", 1)
    trial.set_constraint("size", 2)
    assert trial.constraints == {"size": 1.0}
    return 0.0


def constrained_text(trial):
    trial.set_constraint("size", "big")


def constrained_nan(trial):
    trial.set_constraint("size", float("nan"))


def about_itself(trial):
    trial.suggest_float("x", 0, 1)
    trial.suggest_categorical("c", ["a", "b"])
    study = trial.study
    trial.set_user_attr("number", trial.number)
    trial.set_user_attr("params", trial.params)
    trial.set_user_attr("distributions", {name: repr(kind) for name, kind in trial.distributions.items()})
    trial.set_user_attr("started", trial.datetime_start is not None)
    trial.set_user_attr("relative", sorted(trial.relative_params))
    trial.set_user_attr("direction", study.direction.name)
    trial.set_user_attr("directions", [direction.name for direction in study.directions])
    trial.set_user_attr("metric_names", study.metric_names)
    trial.set_user_attr("n_trials", [len(study.trials), len(study.get_trials(deepcopy=False))])
    complete = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    trial.set_user_attr("complete", len(complete))
    if complete:
        trial.set_user_attr("best", [study.best_value, study.best_values, study.best_params, study.best_trial.number])
        trial.set_user_attr("best_trials", [best.number for best in study.best_trials])
    return trial.params["x"]


def best_of_none(trial):
    return trial.study.best_value


def looks_like_optuna(trial):
    assert isinstance(trial, optuna.Trial)
    assert isinstance(trial, optuna.trial.BaseTrial)
    assert isinstance(trial.study, optuna.Study)
    assert not isinstance(trial, optuna.trial.FrozenTrial)
    return 1.0


def cross_validated(trial):
    with warnings.catch_warnings(action="ignore"):
        optuna.terminator.report_cross_validation_scores(trial, np.array([0.5, 0.75]))
    return 0.5


def raises(trial):
    trial.suggest_float("x", 0, 1)
    raise KeyError("x")


def ends_iteration(trial):
    return next(iter(()))


def catches_errors(trial):
    try:
        trial.suggest_float("x", 2, 1)
    except ValueError as error:
        trial.set_user_attr("said", str(error))
    return trial.suggest_float("x", 0, 1)


def nothing(trial):
    pass


def not_a_number(trial):
    return float("nan")


def infinite(trial):
    return float("inf")


def one_in_a_list(trial):
    return [trial.suggest_float("x", 0, 1)]


def an_array(trial):
    return np.array([1.0, 2.0])


def a_whole_number(trial):
    return True


def deep(trial):
    def down(level):
        return trial.suggest_float("x", 0, 1) if level == 0 else down(level - 1)

    return down(sys.getrecursionlimit() // 2)


def a_thread(trial):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(sum(range(10))))
    thread.start()
    thread.join()
    return answers[0] + trial.suggest_float("x", 0, 1)
