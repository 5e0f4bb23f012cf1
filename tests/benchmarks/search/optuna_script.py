"""A search as Optuna's documentation teaches it: one of any number of processes on one database.

python -m tests.benchmarks.search.optuna_script --storage URL --data DIR --images N ...
"""

import argparse
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.pruners import MedianPruner, NopPruner
from optuna.samplers import RandomSampler, TPESampler

from studies.cifar.choices import Choices
from tests.benchmarks.student import images_of, train

STUDY = "plain"


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    images = images_of(options.data, options.images)

    def objective(trial: optuna.Trial) -> float:
        accuracy = 0.0
        for epoch, (accuracy, _) in enumerate(train(_choices(trial), images, options.epochs), 1):
            trial.report(accuracy, step=epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return accuracy

    sampler, pruner = (
        (RandomSampler(seed=options.seed), NopPruner())
        if options.random
        else (TPESampler(seed=options.seed), MedianPruner())
    )
    study = optuna.create_study(
        study_name=STUDY,
        storage=options.storage,
        direction="maximize",
        load_if_exists=True,
        sampler=sampler,
        pruner=pruner,
    )
    study.optimize(objective)


def _choices(trial: optuna.Trial) -> Choices:
    values: dict[str, Any] = {
        "bn1": trial.suggest_categorical("bn1", ["off", "plain", "affine"]),
        "bn2": trial.suggest_categorical("bn2", ["off", "plain", "affine"]),
        "extra_fc": trial.suggest_categorical("extra_fc", [False, True]),
        "conv_bias": trial.suggest_categorical("conv_bias", [False, True]),
        "fc_bias": trial.suggest_categorical("fc_bias", [False, True]),
        "optimizer": trial.suggest_categorical(
            "optimizer", ["SGD", "RMSprop", "Adagrad", "Adam", "AdamW", "Adamax"]
        ),
        "lr": trial.suggest_float("lr", 1e-4, 1e-1, log=True),
        "weight_decay": trial.suggest_categorical(
            "weight_decay", [0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
        ),
        "schedule": trial.suggest_categorical("schedule", ["constant", "cosine"]),
    }
    return Choices(**values)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.search.optuna_script")
    parser.add_argument("--storage", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--random", action="store_true", help="at random and without pruning")
    return parser.parse_args()


if __name__ == "__main__":
    main()
