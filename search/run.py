"""Run or resume a search: `python -m search.run --study cifar`.

Everything is in the database: the same command goes on where it was, however it was stopped.
"""

import argparse
import dataclasses
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from search.files import check_folder
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
    import optuna
    from rich.console import Console

    from search.choices import Choices
    from search.cluster import Place
    from search.machine import Machine
    from search.overview import Observer
    from search.storage import Database
    from search.study import Study
    from search.worker import Stop

EPILOG = """\
examples:
  python -m search.run --study digits                     quick start: 20 trials in a minute
  python -m search.run --study cifar                      run, or go on where it was
  python -m search.run --study cifar --workers 4          four trials at a time
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
        "--workers",
        type=whole(1, 1024),
        default=1,
        metavar="N",
        help="worker processes on this machine; CUDA devices are dealt out in turn, and CPU "
        "threads divided, or --threads given to each (default: 1)",
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
    study = dataclasses.replace(study, **_changes(options))
    enqueue = [choices.parse_params(text, study.ranges) for text in options.enqueue]
    storage_url.check(options.storage)
    check_folder(options.artifacts, "--artifacts")

    import optuna

    from search.cluster import KeepsDying, deal
    from search.joining import join
    from search.machine import Machine
    from search.outage import DatabaseGone
    from search.overview import Observer
    from search.storage import Database
    from search.store import FOLDER
    from search.summary import console, summary
    from search.view import following
    from search.worker import KeepsFailing, Stop

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    out = console()
    places = deal(options.device, options.workers, threads=options.threads)
    alone = len(places) == 1
    machine = Machine.of(
        study,
        # The parent of workers takes no room on their devices.
        device_name=options.device if alone or places[0].device == "cpu" else "cpu",
        threads=options.threads if alone else places[0].threads,
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
        failed = 0
        stop = Stop(deadline=started + options.timeout if options.timeout else None)
        if done < study.trials:
            where = str(machine) if alone else f"{len(places)} workers, each on {places[0]}"
            out.print(f"On {where}{_pace(study, machine, typical)}.")
        try:
            with (
                following(observer, out, epochs=study.epochs, budget=study.trials),
                stop.on_signals(),
            ):
                if alone:
                    _work(options, study, joined, database, machine, stop)
                elif done < study.trials:
                    failed = _work_together(options, places, Observer(database, joined), stop, out)
        except (DatabaseGone, KeepsFailing, KeepsDying) as error:
            print(f"search.run: {error}", file=sys.stderr)
            return 1
        is_done = len(observer.look().finished) >= study.trials
        if stop.is_asked() and not is_done:
            out.print(f"Stopped by {stop}; the same command goes on where it was.")
        out.print(summary(observer.look(), study))
    if is_done:
        return 0
    return 1 if failed else stop.exit_status


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    """Return the study's fields that the options set to other than its file does."""
    changes = given(options, "name", "trials", *TRAINING)
    return changes if options.variants else changes | {"variants": {}}


def _work(
    options: argparse.Namespace,
    study: "Study",
    joined: "optuna.Study",
    database: "Database",
    machine: "Machine",
    stop: "Stop",
) -> None:
    from search.workplace import Workplace

    place = Workplace(
        study=study,
        joined=joined,
        database=database,
        machine=machine,
        artifacts=options.artifacts,
    )
    place.work(stop, budget=study.trials, measure_train=options.measure_train)


def _work_together(
    options: argparse.Namespace,
    places: "Sequence[Place]",
    observer: "Observer",
    stop: "Stop",
    out: "Console",
) -> int:
    """Run workers in processes of their own; return how many of them failed."""
    from search.cluster import supervise
    from search.job import Job
    from search.processes import Process

    jobs = [
        Job(
            study=options.study,
            changes=_changes(options),
            storage=options.storage,
            data=options.data,
            artifacts=options.artifacts,
            device=place.device,
            threads=place.threads,
            measure_train=options.measure_train,
        )
        for place in places
    ]
    return supervise(
        [partial(Process, job) for job in jobs],
        stop,
        progress=lambda: sum(map(len, observer.look().epochs.values())),
        say=lambda line: out.print(line, markup=False, highlight=False, soft_wrap=True),
    )


def _pace(study: "Study", machine: "Machine", typical: "Choices | None") -> str:
    """Return in words about how long an epoch takes; nothing if it cannot be told."""
    from search.estimate import epoch_seconds

    if typical is None:
        return ""
    took = epoch_seconds(
        typical, machine.splits, batch_size=study.batch_size, device=machine.device
    )
    return "" if took is None else f": an epoch takes about {took:.2g} seconds"


main = command(parser(), run)

if __name__ == "__main__":
    sys.exit(main())
