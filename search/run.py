"""Run or resume a search: `python -m search.run --study cifar`.

Everything is in the database: the same command goes on where it was, however it was stopped.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from search.errors import UserError
from search.options import Parser, add_common, command, seconds, whole

if TYPE_CHECKING:
    import optuna
    import torch
    from rich.console import Console

    from search.checkpoints import Checkpoints
    from search.choices import Choices
    from search.storage import Database
    from search.study import Study
    from search.training import Splits
    from search.worker import Stop

EPILOG = """\
examples:
  python -m search.run --study digits                     quick start: 20 trials in a minute
  python -m search.run --study cifar                      run, or go on where it was
  python -m search.run --study cifar --trials 120         extend a finished study
  python -m search.run --study cifar --enqueue "optimizer=SGD lr=0.02"

exit status: 0 done, 1 the work failed, 2 what was asked cannot be done,
130 and 143 stopped by SIGINT and SIGTERM (the same command goes on)
"""


def parser() -> Parser:
    made = Parser(
        "run",
        "Run or resume a study: the fixed variants first, then sampled trials, pruned on accuracy, "
        "until the study holds its budget of finished trials.",
    )
    made.epilog = EPILOG
    add_common(made)
    made.add_argument(
        "--trials",
        type=whole(1),
        metavar="N",
        help="budget: finished trials of the study in all, pruned ones and variants among them "
        "(default: the study's; 60 for cifar, 20 for digits)",
    )
    made.add_argument(
        "--epochs",
        type=whole(1),
        metavar="N",
        help="epochs of a trial that is not pruned (default: the study's; 10 for cifar, 8 digits)",
    )
    made.add_argument(
        "--images",
        type=whole(2),
        metavar="N",
        help="train on the first N images (default: all; cifar has 50000)",
    )
    made.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="auto, cuda, cuda:1, mps or cpu; auto takes CUDA, else MPS, else the CPU "
        "(default: auto)",
    )
    made.add_argument(
        "--threads",
        type=whole(1, 1024),
        metavar="N",
        help="CPU threads of PyTorch (default: PyTorch's own choice, one a core)",
    )
    made.add_argument(
        "--seed",
        type=whole(0),
        metavar="N",
        help="seed of all random draws (default: the study's; 0 for cifar and digits)",
    )
    made.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="stop after so many seconds, within a batch; the same command goes on "
        "(default: no limit)",
    )
    made.add_argument(
        "--select",
        choices=("test", "validation"),
        help="prune and rank on test accuracy as the report did, or on the last tenth of the "
        "training images, held out (default: the study's; test)",
    )
    made.add_argument(
        "--enqueue",
        action="append",
        default=[],
        metavar="PARAMS",
        help='run a trial with these values, such as "optimizer=SGD lr=0.02"; what is not named '
        "is sampled; can be given several times (default: none)",
    )
    made.add_argument(
        "--measure-train",
        action="store_true",
        help="measure train loss and accuracy of sampled trials too, which costs a third of an "
        "epoch; variants always have them (default: no)",
    )
    made.add_argument(
        "--variants",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run the study's fixed variants first, or enqueue none of them "
        "(default: run them first)",
    )
    return made


def run(options: argparse.Namespace) -> int:
    """Check what was asked, then search; nothing is written before all of it is known to fit."""
    started = time.monotonic()
    from search import choices, storage_url
    from search.study import load

    study = load(options.study)
    typical = next(iter(study.variants.values()), None)
    names = ("name", "trials", "epochs", "images", "seed", "select")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if not options.variants:
        given["variants"] = {}
    study = dataclasses.replace(study, **given)
    enqueue = [choices.parse_params(text, study.ranges) for text in options.enqueue]
    storage_url.check(options.storage)
    _check_folder(options.artifacts)

    import optuna

    from search import data, device
    from search.joining import join
    from search.storage import Database
    from search.summary import console
    from search.training import Splits
    from search.worker import Stop

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    out = console()
    where = device.choose(options.device)
    device.prepare(where, options.threads)
    total = data.n_train(study.dataset)
    n_train, n_held_out = study.n_train(total), study.n_held_out(total)  # before files are fetched
    dataset = data.load(study.dataset, options.data, out.print)
    splits = Splits.of(dataset, n_train=n_train, n_held_out=n_held_out, device=where)
    database = Database(options.storage)
    try:
        joined = join(database, study, data_digest=dataset.digest, enqueue=enqueue)
        search = _Search(study, joined, database, splits, where, out)
        stop = Stop(deadline=started + options.timeout if options.timeout else None)
        return search.run(options, typical, stop)
    finally:
        database.close()


@dataclasses.dataclass
class _Search:
    """A study that has been joined, and what it is run with."""

    study: "Study"
    joined: "optuna.Study"
    database: "Database"
    splits: "Splits"
    device: "torch.device"
    out: "Console"

    def run(self, options: argparse.Namespace, typical: "Choices | None", stop: "Stop") -> int:
        """Run what the budget lacks, show it, and return the exit status."""
        from search import device
        from search.checkpoints import Checkpoints
        from search.joining import artifacts_folder
        from search.overview import Observer
        from search.summary import summary
        from search.view import following

        observer = Observer(self.database, self.joined)
        seen = observer.look()
        folder = options.artifacts / artifacts_folder(self.joined)
        checkpoints = Checkpoints(folder / "checkpoints")
        checkpoints.sweep(seen.begun)
        done, budget = len(seen.finished), self.study.trials
        say = self.out.print
        say(f"Study {self.study.name} in {self.database}: {done} of {budget} trials done.")
        say(f"Look at it with: optuna-dashboard {self.database}", soft_wrap=True)
        status = 0
        if done < budget:
            took = self._epoch_seconds(typical)
            about = f": an epoch takes about {took:.2g} seconds." if took else "."
            say(f"On {device.describe(self.device)}{about}")
            with following(observer, self.out, epochs=self.study.epochs, budget=budget):
                error = self._work(folder, checkpoints, options.measure_train, stop)
            if error is not None:
                print(f"search.run: {error}", file=sys.stderr)
                return 1
            if len(observer.look().finished) < budget and stop.is_asked():
                say(f"Stopped by {stop}; the same command goes on where it was.")
                status = 128 + stop.signal if stop.signal else 0
        say(summary(observer.look(), self.study))
        return status

    def _epoch_seconds(self, typical: "Choices | None") -> float | None:
        from search.estimate import epoch_seconds

        if typical is None:
            return None
        batch_size = self.study.batch_size
        return epoch_seconds(typical, self.splits, batch_size=batch_size, device=self.device)

    def _work(
        self, folder: Path, checkpoints: "Checkpoints", measure_train: bool, stop: "Stop"
    ) -> Exception | None:
        """Run trials until the budget is spent or `stop` asks; return what made an end of it."""
        from search.claims import Claims
        from search.objective import Objective
        from search.presence import Presence
        from search.worker import DatabaseGone, KeepsFailing, work

        presence = Presence(folder / "workers")
        claims = Claims(self.database, self.joined, presence, budget=self.study.trials)
        objective = Objective(
            study=self.study,
            joined=self.joined,
            database=self.database,
            claims=claims,
            checkpoints=checkpoints,
            splits=self.splits,
            device=self.device,
            measure_train=measure_train,
        )
        with stop.on_signals():
            try:
                work(objective, claims, stop)
            except (DatabaseGone, KeepsFailing) as error:
                return error
        return None


def _check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to; leave nothing behind.

    Raises:
        UserError: naming the option and the cause.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(f"--artifacts {folder}: {error.strerror}; name another folder") from error


main = command(parser(), run)

if __name__ == "__main__":
    sys.exit(main())
