"""Ray Tune as its guides have it: OptunaSearch, one CPU per trial.

python -m tests.benchmarks.ray_script usual --trials 8     ASHA; the usual script's DataLoader on full MNIST
python -m tests.benchmarks.ray_script own --trials 20      this project's own training loop on `digits`, nothing pruned
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
from objectives.spec import ObjectiveSpec
from objectives.worker.messages import EpochDone, Finished, WorkerSettings
from objectives.worker.worker import Worker
from tests.benchmarks.objectives import Digits
from tests.benchmarks.settings import suggest

arguments = argparse.ArgumentParser()
arguments.add_argument("form", choices=("usual", "own"))
arguments.add_argument("--trials", type=int, required=True)
arguments.add_argument("--epochs", type=int, required=True)
arguments.add_argument("--seed", type=int, default=0)
arguments.add_argument("--settings", help="JSON list of settings to try first")
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


def own_loop(config: dict[str, Any]) -> None:
    """Train one configuration as a worker process of this project does, in the process that Ray keeps for it."""
    epochs = config.pop("epochs")
    spec = ObjectiveSpec("tests.benchmarks.objectives:Digits")
    own = Worker(WorkerSettings(spec, "cpu", index=0, threads=1, threads_alone=1))
    reply = own.start(Task(0, own.objective.suggest(FixedTrial(config)), seed=0, epochs=epochs))
    while isinstance(reply, EpochDone):
        tune.report({**reply.result.metrics, "val_accuracy": reply.result.value})
        reply = own.advance()
    assert isinstance(reply, Finished), reply


def space(trial: Any, form: str, fixed: dict[str, Any]) -> dict[str, Any]:
    """What OptunaSearch calls for each trial; what it returns is added to what was suggested."""
    if form == "usual":
        suggest(trial)
    else:
        Digits().suggest(trial)
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
        tune.with_resources(usual if given.form == "usual" else own_loop, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            metric="val_accuracy",
            mode="max",
            num_samples=given.trials,
            search_alg=OptunaSearch(
                space=partial(space, form=given.form, fixed=fixed),
                metric="val_accuracy",
                mode="max",
                seed=given.seed,
                points_to_evaluate=json.loads(given.settings) if given.settings else None,
            ),
            scheduler=ASHAScheduler(max_t=given.epochs) if given.form == "usual" else None,
        ),
        run_config=tune.RunConfig(storage_path=os.path.abspath("results")),
    )
    results = tuner.fit()
    epochs = sum(result.metrics["training_iteration"] for result in results)
    best = results.get_best_result().metrics["val_accuracy"]
    print(json.dumps({"best": best, "errors": results.num_errors, "epochs": epochs}))


if __name__ == "__main__":
    main()
