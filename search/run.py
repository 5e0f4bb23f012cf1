"""Run or resume a search: `python -m search.run --study cifar`.

Everything is in the database: the same command goes on where it was, however it was stopped.
"""

import argparse
import dataclasses
import shlex
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from search.errors import UserError
from search.options import (
    TRAINING,
    Parser,
    add_folders,
    add_select,
    add_study,
    add_training,
    command,
    given,
    whole,
)

if TYPE_CHECKING:
    from search.choices import Choices
    from search.machine import Machine
    from search.study import Study

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
    add_study(made)
    add_folders(made)
    add_training(made)
    add_select(made)
    made.add_argument(
        "--trials",
        type=whole(1),
        metavar="N",
        help="budget: finished trials of the study in all, pruned ones and variants among them "
        "(default: the study's; 60 for cifar, 20 for digits)",
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
    study = dataclasses.replace(study, **given(options, "name", "trials", *TRAINING))
    if not options.variants:
        study = dataclasses.replace(study, variants={})
    enqueue = [choices.parse_params(text, study.ranges) for text in options.enqueue]
    storage_url.check(options.storage)
    _check_folder(options.artifacts)

    import optuna

    from search.joining import join
    from search.machine import Machine
    from search.overview import Observer
    from search.storage import Database
    from search.store import FOLDER
    from search.summary import console, summary
    from search.worker import DatabaseGone, KeepsFailing, Stop
    from search.workplace import Workplace

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    out = console()
    machine = Machine.of(
        study,
        device_name=options.device,
        threads=options.threads,
        root=options.data,
        say=out.print,
    )
    with closing(Database(options.storage)) as database:
        joined = join(database, study, data_digest=machine.data_digest, enqueue=enqueue)
        observer = Observer(database, joined)
        done = len(observer.look().finished)
        out.print(f"Study {study.name} in {database}: {done} of {study.trials} trials done.")
        weights = shlex.quote(str(options.artifacts / FOLDER))
        out.print(
            f"Look at it with: optuna-dashboard {database} --artifact-dir {weights}",
            soft_wrap=True,
        )
        if done < study.trials:
            took = None if typical is None else _epoch_seconds(study, machine, typical)
            about = "" if took is None else f": an epoch takes about {took:.2g} seconds"
            out.print(f"On {machine}{about}.")
        place = Workplace(
            study=study,
            joined=joined,
            database=database,
            machine=machine,
            artifacts=options.artifacts,
            out=out,
        )
        stop = Stop(deadline=started + options.timeout if options.timeout else None)
        try:
            place.work(observer, stop, budget=study.trials, measure_train=options.measure_train)
        except (DatabaseGone, KeepsFailing) as error:
            print(f"search.run: {error}", file=sys.stderr)
            return 1
        stopped = stop.is_asked() and len(observer.look().finished) < study.trials
        if stopped:
            out.print(f"Stopped by {stop}; the same command goes on where it was.")
        out.print(summary(observer.look(), study))
    return stop.exit_status if stopped else 0


def _epoch_seconds(study: "Study", machine: "Machine", choices: "Choices") -> float | None:
    from search.estimate import epoch_seconds

    return epoch_seconds(
        choices, machine.splits, batch_size=study.batch_size, device=machine.device
    )


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
