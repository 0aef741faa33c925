"""A script as people write it for Optuna alone: `python -m tests.benchmarks.function_script --trials 100`.

Its function costs next to nothing, so what is left is the cost of the search. Every trial makes all its reports, and
asks after each whether it is to be pruned.
"""

from __future__ import annotations

import argparse

import optuna

REPORTS = 10


def objective(trial: optuna.Trial) -> float:
    """Six suggestions and ten reports."""
    lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    dropout = trial.suggest_float("dropout", 0.0, 0.5)
    momentum = trial.suggest_float("momentum", 0.5, 0.99)
    layers = trial.suggest_int("layers", 1, 5)
    width = trial.suggest_int("width", 16, 512, log=True)
    optimizer = trial.suggest_categorical("optimizer", ["sgd", "adam", "rmsprop"])
    loss = abs(lr - 1e-3) + dropout + momentum + layers + width / 512 + len(optimizer)
    for step in range(REPORTS):
        trial.report(loss + 1 / (step + 1), step)
        trial.should_prune()
    return loss


def main() -> None:
    """Search."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--trials", type=int, required=True)
    given = arguments.parse_args()
    study = optuna.create_study(study_name="function", storage="sqlite:///optuna.db")
    study.optimize(objective, n_trials=given.trials)


if __name__ == "__main__":
    main()
