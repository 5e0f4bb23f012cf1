"""Re-run variants, or replay or re-run trials: `python -m search.reproduce --study cifar`.

Trains the variants over several seeds and compares them with the published figures; replays a
stored trial from its own seed, bit for bit; or re-runs the best trials with fresh seeds. The search
is unchanged: re-runs with other seeds are recorded in separate studies.
"""
# PYTHON_ARGCOMPLETE_OK: `search.cli.completion` answers the Tab key.

import argparse
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from search.cli.options import (
    PLACES,
    TRAINING,
    add_repeats,
    add_running,
    add_search,
    changes,
    check_storage,
    commands,
    given,
    named,
)
from search.cli.parser import Parser, command, whole
from search.errors import UserError
from search.files import check_out

if TYPE_CHECKING:
    from rich.console import Console

    from search.study.study import Study

EPILOG = """\
examples:
  python -m search.reproduce --study cifar --repeats 3           all variants, three seeds each
  python -m search.reproduce --study cifar --variant question-3  one variant
  python -m search.reproduce --study cifar --trial 17            replay: are the metrics the same?
  python -m search.reproduce --study cifar --trial best --repeats 5   re-run with fresh seeds
  python -m search.reproduce --study cifar --top 5 --repeats 8   which is the best over seeds?
  python -m search.reproduce --study my/study.py --check         can its training be resumed?

exit status: 0 done, with --trial the same metrics, 1 training failed, or the metrics differ,
2 invalid request, 129, 130 and 143 stopped by SIGHUP, SIGINT and SIGTERM (the same command
resumes)
"""


def parser() -> Parser:
    made = Parser(
        "search.reproduce",
        "Train the variants of a study over several seeds and compare them with the published "
        "figures; replay a trial and compare its metrics with the stored ones; or train the best "
        "trials with fresh seeds and compare them with each other.",
    )
    made.epilog = EPILOG
    add_search(made)
    trials = made.add_argument_group("what to train")
    what = trials.add_mutually_exclusive_group()
    what.add_argument(
        "--variant",
        action="append",
        metavar="NAME",
        help="a variant to re-run; can be repeated (default: all variants)",
    )
    what.add_argument(
        "--trial",
        metavar="N",
        help="replay a trial, by its number or `best`: train it again from its own seed with the "
        "stored settings, and compare every metric; uses the trial's device and threads unless "
        "--device or --threads is given; with --repeats, train it with fresh seeds instead "
        "(default: none)",
    )
    what.add_argument(
        "--top",
        type=whole(1, 100),
        metavar="N",
        help="train the best N trials of the study with the same fresh seeds; clear losers skip "
        "later seeds (default: none)",
    )
    what.add_argument(
        "--check",
        action="store_true",
        help="check a study's training: train up to four epochs (or --epochs), and again with a "
        "resume after each; every metric must be the same; writes nothing (default: no)",
    )
    what.add_argument(
        "--compare",
        action="append",
        type=Path,
        metavar="FILE",
        help="train nothing, and compare the metrics in a file written by --out; can be given "
        "several times (default: none)",
    )
    add_repeats(trials, "1 for variants, 5 for --top")
    trials.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="also write every epoch of the re-runs to this CSV file (default: none)",
    )
    add_running(made.add_argument_group("running"))
    return made


def run(options: argparse.Namespace) -> int:
    """Check all options, then train, or compare recorded runs."""
    started = time.monotonic()
    from search.artifacts.store import open_artifacts
    from search.reporting.terminal import console
    from search.study.study_file import load

    study = load(options.study).changed(given(options, "name"))
    if options.compare:
        return _compare(options, study, console())
    if options.check:
        return _check(options, study, console())
    of_search = options.trial is not None or options.top is not None
    if of_search and (trained := given(options, *TRAINING)):
        mode = "--trial" if options.trial is not None else "--top"
        raise UserError(f"--{next(iter(trained))}: {mode} uses the study's value; leave it out")
    check_storage(options.storage, study.name, must_exist=of_search)
    artifacts = open_artifacts(options.artifacts)
    if options.trial is None or options.repeats is not None:  # a replay stores no artifacts
        artifacts.check()
    if options.out is not None:
        check_out(options.out)

    from search.database.database import Database
    from search.database.outage import DatabaseGone
    from search.worker.claims import StudyGone
    from search.worker.config import WorkerConfig
    from search.worker.guarded_training import TrainingError
    from search.worker.reproduce_tasks import Reproduction
    from search.worker.stop import Stop
    from search.worker.worker import KeepsFailing

    places = given(options, *PLACES, "device", "threads")
    config = WorkerConfig(changes=given(options, "name"), **places)
    stop = Stop(deadline=started + options.timeout if options.timeout else None)
    with closing(Database(options.storage)) as database:
        reproduction = Reproduction(
            study=study,
            database=database,
            config=config,
            search=commands(options).line("search.run", named(options)),
            out=console(),
            stop=stop,
        )
        status = 0
        try:
            if options.top is not None:
                reproduction.best(options.top, options.repeats or 5, file=options.out)
            elif options.trial is None:
                numbers = range(options.first_repeat, options.first_repeat + (options.repeats or 1))
                reproduction.variants(
                    options.variant or (),
                    numbers,
                    options=changes(options, study),
                    file=options.out,
                )
            elif options.repeats is None:
                status = reproduction.again(options.trial)
            else:
                reproduction.best(options.trial, options.repeats, file=options.out)
        except (DatabaseGone, KeepsFailing, StudyGone, TrainingError) as error:
            print(f"search.reproduce: {error}", file=sys.stderr)
            return 1
    return stop.exit_status or status


def _check(options: argparse.Namespace, study: "Study", out: "Console") -> int:
    from search.worker.config import WorkerConfig
    from search.worker.guarded_training import Diverged, TrainingError
    from search.worker.stop import Stop, Stopped
    from search.worker.training_check import EPOCHS, check_training

    config = WorkerConfig(
        changes={"epochs": min(EPOCHS, study.epochs)} | changes(options, study),
        **given(options, *PLACES, "device", "threads"),
    )
    stop = Stop(deadline=time.monotonic() + options.timeout if options.timeout else None)

    def after_batch(batches: int) -> None:
        if stop.is_asked():
            raise Stopped

    whole, study = study, study.changed(config.changes)
    try:
        with stop.on_signals():
            machine = config.machine(study, out.print)
            found = check_training(study, machine, out.print, after_batch)
    except Stopped:
        out.print(f"Stopped by {stop}.")
        return stop.exit_status
    except (Diverged, TrainingError) as error:
        if isinstance(error, TrainingError):
            print(error.traceback.rstrip(), file=sys.stderr)
        print(f"search.reproduce: {error}", file=sys.stderr)
        return 1
    for fault in found.faults:
        out.print(fault, soft_wrap=True)
    if found.unread:
        out.print(
            f"The training never read {', '.join(found.unread)}: what is not read changes nothing. "
            "Is a name misspelled, or its value only read for other choices?",
            soft_wrap=True,
        )
    if not found.faults:
        epochs = str(study.epochs)
        if study.epochs < whole.epochs:
            epochs += f" of {whole.epochs}; --epochs {whole.epochs} compares all"
        out.print(
            "The training can be resumed and replayed: all metrics are the same with a resume "
            f"after each epoch (epochs: {epochs}).",
            soft_wrap=True,
        )
    return 1 if found.faults else 0


def _compare(options: argparse.Namespace, study: "Study", out: "Console") -> int:
    from search.analysis.rerun_metrics import merged, read, trained_as
    from search.reporting.seed_tables import comparison

    runs = merged([read(path) for path in options.compare])
    out.print(comparison(runs, trained_as(options.compare, study)))
    return 0


main = command(parser(), run)

if __name__ == "__main__":
    sys.exit(main())
