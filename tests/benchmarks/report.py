"""Time of a report over many trials: `python -m tests.benchmarks.report`.

The whole command, from its start to the written page, beside a plain reference: Optuna's five
charts of the same study, each written by Plotly to a page of its own, which holds neither the
variants nor the learning curves. Both are processes of their own, in turn. Printed are the seconds
of each round, the ratio, and the size of the page.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna

from search.database.database import Database
from search.study.study_file import load
from tests.support.made_up import made_up

PLAIN = """
import sys, optuna
from optuna import visualization as v
optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.load_study(study_name="digits", storage=sys.argv[1])
for plot in (v.plot_optimization_history, v.plot_param_importances, v.plot_slice,
             v.plot_parallel_coordinate, v.plot_intermediate_values):
    plot(study).write_html(f"{plot.__name__}.html")
"""


def _seconds(folder: Path, *command: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = f"sqlite:///{folder / 'search.db'}"
        database = Database(url)
        made_up(database, load("digits"), options.trials)
        database.close()
        for _ in range(options.rounds):
            ours = _seconds(folder, "-m", "search.report", "--study", "digits")
            plain = _seconds(folder, "-c", PLAIN, url)
            size = (folder / "report-digits.html").stat().st_size / 1e6
            print(
                f"{options.trials} trials: ours {ours:.1f} s, plain {plain:.1f} s, ratio "
                f"{plain / ours:.2f}, page {size:.1f} MB"
            )


if __name__ == "__main__":
    main()
