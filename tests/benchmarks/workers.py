"""What a second worker brings on this machine: `python -m tests.benchmarks.workers`.

The same trials by `python -m search.run --workers 1`, the plain reference, with one thread or
`--threads N`, and by `--workers N`, in turn, each time in an empty folder. Nothing is pruned and
the choices are drawn at random, so that both train the same networks. Printed is the ratio of the
trials per hour, from the first trial's start to the last one's end as the database has them.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from search.database.database import Database
from tests.support.commands import fresh_environment

STUDY = """\
from dataclasses import replace
from optuna.pruners import NopPruner
from studies.{name} import study
study = replace(study, name="bench", variants={{}}, pruner=NopPruner())
"""
SIZES = {
    "digits": ("--trials", "32", "--epochs", "4"),
    "cifar": ("--trials", "12", "--epochs", "1", "--images", "1500", "--no-confirm"),
}


def _trials_per_hour(name: str, data: Path, *options: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.py"
        file.write_text(STUDY.format(name=name))
        subprocess.run(
            [sys.executable, "-m", "search.run", "--study", str(file), "--data", str(data),
             *SIZES[name], *options],
            cwd=folder, check=True, stdout=subprocess.DEVNULL,
            env=fresh_environment(),
        )  # fmt: skip
        database = Database(f"sqlite:///{folder}/search.db")
        trials = database.optuna.get_all_trials(1)
        database.close()
    began = min(trial.datetime_start for trial in trials if trial.datetime_start)
    ended = max(trial.datetime_complete for trial in trials if trial.datetime_complete)
    return 3600 * len(trials) / (ended - began).total_seconds()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--studies", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of the one worker (default: 1)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path("data"))
    options = parser.parse_args()
    for name in options.studies:
        ratios = []
        for _ in range(options.rounds):
            one = _trials_per_hour(
                name, options.data.absolute(), "--workers", "1", "--threads", str(options.threads)
            )
            many = _trials_per_hour(
                name, options.data.absolute(), "--workers", str(options.workers)
            )
            ratios.append(many / one)
            print(f"{name}: {one:.0f} trials/h by one with {options.threads} "
                  f"thread(s), {many:.0f} by {options.workers}: "
                  f"{ratios[-1]:.2f}", flush=True)  # fmt: skip
        print(
            f"{name}: {statistics.median(ratios):.2f} times ({min(ratios):.2f} to "
            f"{max(ratios):.2f}, {len(ratios)} rounds)"
        )


if __name__ == "__main__":
    main()
