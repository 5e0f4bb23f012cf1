"""A search as Ray Tune's tutorial on CIFAR-10 does it, with OptunaSearch and ASHA.

    python -m tests.benchmarks.search.ray_script --reports FILE --data DIR --images N ...

Every report of a trial is appended to `--reports` as a line of JSON, when the driver learns of it.
"""

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from studies.cifar.choices import Choices
from tests.benchmarks.student import images_of, train

SPACE = {
    "bn1": tune.choice(["off", "plain", "affine"]),
    "bn2": tune.choice(["off", "plain", "affine"]),
    "extra_fc": tune.choice([False, True]),
    "conv_bias": tune.choice([False, True]),
    "fc_bias": tune.choice([False, True]),
    "optimizer": tune.choice(["SGD", "RMSprop", "Adagrad", "Adam", "AdamW", "Adamax"]),
    "lr": tune.loguniform(1e-4, 1e-1),
    "weight_decay": tune.choice([0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]),
    "schedule": tune.choice(["constant", "cosine"]),
}


class Reports(tune.Callback):
    def __init__(self, file: Path) -> None:
        self.file = file

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        line = {
            "at": time.time(),
            "trial": trial.trial_id,
            "accuracy": result["accuracy"],
            "choices": trial.config,
        }
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")


def _train(config: dict[str, Any], *, data: Path, images: int, epochs: int) -> None:
    torch.set_num_threads(1)
    for accuracy, network in train(Choices(**config), images_of(data, images), epochs):
        with tempfile.TemporaryDirectory() as folder:
            torch.save(network.state_dict(), Path(folder) / "checkpoint.pt")
            checkpoint = tune.Checkpoint.from_directory(folder)
            tune.report({"accuracy": accuracy}, checkpoint=checkpoint)


def main() -> None:
    options = _options()
    ray.init(num_cpus=options.workers, include_dashboard=False, log_to_driver=False)
    training = partial(
        _train, data=options.data.resolve(), images=options.images, epochs=options.epochs
    )
    tune.Tuner(
        tune.with_resources(training, {"cpu": 1}),
        param_space=SPACE,
        tune_config=tune.TuneConfig(
            metric="accuracy",
            mode="max",
            search_alg=OptunaSearch(seed=options.seed),
            scheduler=ASHAScheduler(max_t=options.epochs, grace_period=1, reduction_factor=2),
            num_samples=-1,
        ),
        run_config=tune.RunConfig(
            storage_path=str(options.reports.parent.resolve()),
            callbacks=[Reports(options.reports.resolve())],
            verbose=0,
        ),
    ).fit()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.search.ray_script")
    parser.add_argument("--reports", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
