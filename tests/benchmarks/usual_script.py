"""A search as people write it: Optuna, MLflow, torchvision and a DataLoader, all with their defaults.

    python -m tests.benchmarks.usual_script --trials 2 --epochs 5 --pruner none [--settings JSON] [--train-images N]

Written for this benchmark after the tutorials of the four libraries, and kept honest: nothing is slowed down, and the
script's own imports, its stores and MNIST on disk are where the tutorials have them.
"""

from __future__ import annotations

import argparse
import json

import mlflow
import optuna
import torch
from torch.utils.data import DataLoader

from tests.benchmarks.settings import suggest
from tests.benchmarks.usual_loop import build, load_data, train_epoch, validate

arguments = argparse.ArgumentParser()
arguments.add_argument("--trials", type=int, required=True)
arguments.add_argument("--epochs", type=int, default=5)
arguments.add_argument("--pruner", choices=("none", "median"), default="none")
arguments.add_argument("--seed", type=int, default=0)
arguments.add_argument("--settings", default="[]", help="JSON list of settings to try first")
arguments.add_argument("--train-images", type=int, default=50_000)
arguments.add_argument("--validation-images", type=int, default=10_000)


def main() -> None:
    """Search."""
    given = arguments.parse_args()
    train_set, validation_set = load_data(given.train_images, given.validation_images)

    def objective(trial: optuna.Trial) -> float:
        params = suggest(trial)
        model = build(params)
        optimizer = torch.optim.Adam(model.parameters(), lr=params["lr"])
        train_loader = DataLoader(train_set, batch_size=params["batch_size"], shuffle=True)
        validation_loader = DataLoader(validation_set, batch_size=params["batch_size"])
        with mlflow.start_run(run_name=f"trial-{trial.number}"):
            mlflow.log_params(params)
            for epoch in range(given.epochs):
                loss = train_epoch(model, train_loader, optimizer)
                accuracy = validate(model, validation_loader)
                mlflow.log_metric("train_loss", loss, step=epoch)
                mlflow.log_metric("val_accuracy", accuracy, step=epoch)
                trial.report(accuracy, epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned
        return accuracy

    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    mlflow.set_experiment("usual")
    torch.manual_seed(given.seed)
    study = optuna.create_study(
        study_name="usual",
        storage="sqlite:///optuna.db",
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=given.seed),
        pruner=optuna.pruners.MedianPruner() if given.pruner == "median" else optuna.pruners.NopPruner(),
    )
    for setting in json.loads(given.settings):
        study.enqueue_trial(setting)
    study.optimize(objective, n_trials=given.trials)


if __name__ == "__main__":
    main()
