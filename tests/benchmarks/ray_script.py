"""Ray Tune as its guides have it: OptunaSearch, ASHA, one CPU per trial.

python -m tests.benchmarks.ray_script usual --trials 8     the usual script's DataLoader on full MNIST
python -m tests.benchmarks.ray_script trainer --trials 20  this project's own trainer on `digits`
"""

from __future__ import annotations

import argparse
import json
import os
from functools import partial
from typing import Any

from optuna.trial import FixedTrial
from ray import init, tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from objectives.base import Task
from objectives.images import ImageClassification
from tests.benchmarks.settings import suggest

arguments = argparse.ArgumentParser()
arguments.add_argument("form", choices=("usual", "trainer"))
arguments.add_argument("--trials", type=int, required=True)
arguments.add_argument("--epochs", type=int, required=True)
arguments.add_argument("--seed", type=int, default=0)
arguments.add_argument("--train-images", type=int, default=50_000)
arguments.add_argument("--validation-images", type=int, default=10_000)


def usual(config: dict[str, Any]) -> None:
    """Train as the usual script does."""
    import torch
    from torch.utils.data import DataLoader

    from tests.benchmarks.usual_loop import build, load_data, train_epoch, validate

    train_set, validation_set = load_data(config["train_images"], config["validation_images"])
    model = build(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"])
    train_loader = DataLoader(train_set, batch_size=config["batch_size"], shuffle=True)
    validation_loader = DataLoader(validation_set, batch_size=config["batch_size"])
    for _ in range(config["epochs"]):
        loss = train_epoch(model, train_loader, optimizer)
        tune.report({"train_loss": loss, "val_accuracy": validate(model, validation_loader)})


def trainer(config: dict[str, Any]) -> None:
    """Pull this project's own training of one setting."""
    objective = ImageClassification("digits")
    epochs = config.pop("epochs")
    training = objective.start(Task(0, objective.suggest(FixedTrial(config)), seed=0, epochs=epochs), "cpu")
    for _ in range(epochs * objective.steps_per_epoch()):
        metrics = next(training).metrics
        tune.report({**metrics, "val_accuracy": metrics["val/accuracy"]})


def space(trial: Any, form: str, fixed: dict[str, Any]) -> dict[str, Any]:
    """What OptunaSearch calls for each trial; what it returns is added to what was suggested."""
    if form == "usual":
        suggest(trial)
    else:
        ImageClassification("digits").suggest(trial)
    return dict(fixed)


def main() -> None:
    """Search."""
    given = arguments.parse_args()
    fixed = {"epochs": given.epochs}
    if given.form == "usual":
        fixed |= {"train_images": given.train_images, "validation_images": given.validation_images}
    os.environ["HOME"] = os.getcwd()  # Ray keeps a token there
    init(num_cpus=2, include_dashboard=False, _temp_dir=os.path.abspath("ray"))
    tuner = tune.Tuner(
        tune.with_resources(usual if given.form == "usual" else trainer, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            metric="val_accuracy",
            mode="max",
            num_samples=given.trials,
            search_alg=OptunaSearch(
                space=partial(space, form=given.form, fixed=fixed), metric="val_accuracy", mode="max", seed=given.seed
            ),
            scheduler=ASHAScheduler(max_t=given.epochs),
        ),
        run_config=tune.RunConfig(storage_path=os.path.abspath("results")),
    )
    results = tuner.fit()
    epochs = [result.metrics["training_iteration"] for result in results]
    best = results.get_best_result().metrics["val_accuracy"]
    print(json.dumps({"best": best, "errors": results.num_errors, "epochs": epochs}))


if __name__ == "__main__":
    main()
