"""What the service costs a training that does nothing: `python -m tests.benchmarks.overhead`.

The same number of trials and epochs by one worker of the service, by a loop around Optuna's `ask`,
`report` and `tell`, the plain reference, and, with --ray, by Ray Tune's function API with one trial
at a time. Nothing is pruned. Printed are milliseconds for each epoch of each round, and the ratio
of the medians to the loop's; the time to start is left out.
"""

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler

from search.study import Metrics, Run, Study
from search.worker.config import WorkerConfig
from search.worker.stop import Stop
from search.worker.worker import Worker


@dataclass(frozen=True)
class Choices:
    x: Annotated[float, FloatDistribution(0.0, 1.0)]


class Nothing:
    """A training that takes no time."""

    def __init__(self, run: Run[Choices]) -> None:
        self.run = run

    def fit(self, after: int = 0) -> Iterator[Metrics]:
        for epoch in range(after + 1, self.run.epochs + 1):
            yield {"loss": self.run.choices.x / epoch}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None: ...


def _ours(folder: Path, trials: int, epochs: int) -> float:
    study = Study(
        name="nothing",
        choices=Choices,
        train=Nothing,
        metric="loss",
        direction="minimize",
        trials=trials,
        epochs=epochs,
        sampler=RandomSampler,
        pruner=NopPruner(),
    )
    config = WorkerConfig(
        study="nothing", changes={}, storage=f"sqlite:///{folder}/ours.db", data=folder,
        artifacts=str(folder), device="cpu",
    )  # fmt: skip
    machine = config.machine(study, print)
    with Worker.open(config, study, machine) as worker:
        start = time.perf_counter()
        worker.work(Stop(), budget=study.budget)
        return time.perf_counter() - start


def _optuna(folder: Path, trials: int, epochs: int) -> float:
    study = optuna.create_study(storage=f"sqlite:///{folder}/plain.db", sampler=RandomSampler())
    start = time.perf_counter()
    for _ in range(trials):
        trial = study.ask()
        x = trial.suggest_float("x", 0.0, 1.0)
        for epoch in range(1, epochs + 1):
            trial.report(x / epoch, epoch)
            trial.should_prune()
        study.tell(trial, x / epochs)
    return time.perf_counter() - start


def _ray(folder: Path, trials: int, epochs: int) -> float:
    from ray import tune

    def train(config: dict[str, float]) -> None:
        for epoch in range(1, epochs + 1):
            tune.report({"loss": config["x"] / epoch})

    tuner = tune.Tuner(
        train,
        param_space={"x": tune.uniform(0.0, 1.0)},
        tune_config=tune.TuneConfig(
            num_samples=trials, metric="loss", mode="min", max_concurrent_trials=1
        ),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    )
    start = time.perf_counter()
    tuner.fit()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ray", action="store_true", help="also measure Ray Tune")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sides: dict[str, Callable[[Path, int, int], float]] = {"ours": _ours, "plain Optuna": _optuna}
    if options.ray:
        import ray

        ray.init(
            num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )
        sides["Ray Tune"] = _ray
    n = options.trials * options.epochs
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, side in sides.items():
            with tempfile.TemporaryDirectory() as folder:
                found[name].append(1000 * side(Path(folder), options.trials, options.epochs) / n)
    plain = statistics.median(found["plain Optuna"])
    for name, times in found.items():
        each = ", ".join(f"{ms:.1f}" for ms in times)
        ratio = statistics.median(times) / plain
        print(f"{name}: {each} ms for each epoch, {ratio:.2f} of plain Optuna's (medians)")


if __name__ == "__main__":
    main()
