"""What TPE loses and saves by a thinned history: `python -m tests.benchmarks.sampling`.

Searches of a made-up landscape over the real ranges, each seed with several lengths of history and
in turn with the whole one, the plain reference. Printed are, as mean and range over the seeds, the
true goodness of the last 500 trials and of the trial that the noise made the best, and the ratio of
the times that the last 100 suggestions took.
"""

import argparse
import math
import random
import statistics
import sys
import time
from dataclasses import dataclass

import optuna

from search.study.samplers import TPE
from search.study.space import Space
from search.worker.repeatable_sampler import RepeatableSampler
from studies.cifar import Choices

NOISE = 0.005
"""Standard deviation of an accuracy over seeds, about that of the report's variants."""
PENALTIES = {
    "SGD": 0.01,
    "RMSprop": 0.02,
    "Adagrad": 0.03,
    "Adam": 0.005,
    "AdamW": 0.0,
    "Adamax": 0.0,
}
BEST_LR = {
    "SGD": 0.02,
    "RMSprop": 5e-4,
    "Adagrad": 0.01,
    "Adam": 1e-3,
    "AdamW": 1e-3,
    "Adamax": 2e-3,
}


@dataclass(frozen=True, kw_only=True)
class Found:
    late: float
    """Mean true goodness of the last 500 trials."""
    winner: float
    """True goodness of the trial with the highest noisy one."""
    seconds: float
    """Of the last 100 suggestions."""


def goodness(choices: Choices) -> float:
    """Return the accuracy without noise, 0.80 at most: interactions, as a real network has them."""
    off = math.log10(choices.lr / BEST_LR[choices.optimizer])
    decay = choices.weight_decay * (10 if choices.optimizer == "AdamW" else 30)
    return (
        0.80
        - PENALTIES[choices.optimizer]
        - 0.05 * off**2
        - 0.08 * min(decay, 2.0)
        - (0.015 if choices.bn1 == "off" and choices.extra_fc else 0.0)
        - (0.01 if choices.bn2 == "plain" else 0.0)
        - (0.005 if not choices.fc_bias and choices.bn2 == "off" else 0.0)
        - (0.008 if choices.schedule == "constant" else 0.0)
    )


def search(history: int, seed: int, n_trials: int) -> Found:
    study = optuna.create_study(
        direction="maximize", sampler=RepeatableSampler(TPE(history=history), seed=seed)
    )
    space, noise = Space(Choices), random.Random(seed)
    true, noisy, took = [], [], []
    for _ in range(n_trials):
        began = time.perf_counter()
        trial = study.ask()
        choices = space.suggest(trial)
        took.append(time.perf_counter() - began)
        true.append(goodness(choices))
        noisy.append(true[-1] + noise.gauss(0, NOISE))
        trial.report(noisy[-1], step=1)
        study.tell(trial, noisy[-1])
    winner = max(range(n_trials), key=noisy.__getitem__)
    return Found(late=statistics.fmean(true[-500:]), winner=true[winner], seconds=sum(took[-100:]))


def _spread(values: list[float]) -> str:
    return f"{statistics.fmean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--histories", nargs="+", type=int, default=[250, 1000])
    parser.add_argument("--trials", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    lengths = [*options.histories, sys.maxsize]
    found: dict[int, list[Found]] = {length: [] for length in lengths}
    for seed in range(options.seeds):
        for length in lengths:
            found[length].append(search(length, seed, options.trials))
            print(f"seed {seed}, history {length}: {found[length][-1]}", flush=True)
    print(f"{options.trials} trials, {options.seeds} seeds")
    for length in lengths:
        ratios = [
            whole.seconds / own.seconds
            for own, whole in zip(found[length], found[sys.maxsize], strict=True)
        ]
        print(
            f"history {'whole' if length == sys.maxsize else length:>6}"
            f"   last 500: {_spread([one.late for one in found[length]])}"
            f"   winner: {_spread([one.winner for one in found[length]])}"
            f"   whole / own time: {statistics.median(ratios):.2f}"
        )


if __name__ == "__main__":
    main()
