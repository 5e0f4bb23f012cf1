"""Train variants and trials again: `python -m search.reproduce --study cifar`.

The variants over several seeds, beside the figures that were published for them; or a stored trial
from its own seed, bit for bit. The search is left untouched: re-runs with other seeds are recorded
in a study of their own.
"""

import argparse
import dataclasses
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from search.errors import UserError
from search.options import (
    TRAINING,
    Parser,
    add_common,
    add_select,
    add_training,
    command,
    given,
    whole,
)

if TYPE_CHECKING:
    from rich.console import Console

    from search.machine import Machine
    from search.storage import Database
    from search.study import Study
    from search.worker import Stop

EPILOG = """\
examples:
  python -m search.reproduce --study cifar --repeats 3           all variants, three seeds each
  python -m search.reproduce --study cifar --variant question-3  one of them
  python -m search.reproduce --study cifar --trial 17            the same figures again?

exit status: 0 done, with --trial the same figures; 1 the work failed, or other figures; 2 what
was asked cannot be done; 130 and 143 stopped by SIGINT and SIGTERM (the same command goes on)
"""


def parser() -> Parser:
    made = Parser(
        "reproduce",
        "Train the variants of a study over several seeds and compare them with the published "
        "figures; or train a trial of the study again and compare it with itself.",
    )
    made.epilog = EPILOG
    add_common(made)
    add_training(made)
    add_select(made)
    what = made.add_mutually_exclusive_group()
    what.add_argument(
        "--variant",
        action="append",
        metavar="NAME",
        help="a variant to train; can be given several times (default: all of them)",
    )
    what.add_argument(
        "--trial",
        metavar="N",
        help="a trial of the study by its number, or `best`: train it again from its own seed, as "
        "the study has it, and compare every figure (default: none)",
    )
    what.add_argument(
        "--compare",
        action="append",
        type=Path,
        metavar="FILE",
        help="train nothing, and compare the figures of a file that --out wrote; can be given "
        "several times (default: none)",
    )
    made.add_argument(
        "--repeats",
        type=whole(1, 1000),
        default=1,
        metavar="K",
        help="train each variant with K seeds, the same for all (default: 1)",
    )
    made.add_argument(
        "--first-repeat",
        type=whole(0, 1000),
        default=0,
        metavar="K",
        help="number of the first seed, to share the seeds out among machines (default: 0)",
    )
    made.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="also write every epoch of the re-runs to this CSV file (default: none)",
    )
    return made


def run(options: argparse.Namespace) -> int:
    """Check what was asked, then train it again, or compare what was trained before."""
    started = time.monotonic()
    from search import storage_url
    from search.study import load
    from search.summary import console

    study = dataclasses.replace(load(options.study), **given(options, "name"))
    if options.compare:
        return _compare(options, study, console())
    storage_url.check(options.storage)

    import optuna

    from search.storage import Database
    from search.worker import DatabaseGone, KeepsFailing, Stop

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    stop = Stop(deadline=started + options.timeout if options.timeout else None)
    with closing(Database(options.storage)) as database:
        mode = _variants if options.trial is None else _trial
        try:
            status = mode(options, study, database, console(), stop)
        except (DatabaseGone, KeepsFailing) as error:
            print(f"search.reproduce: {error}", file=sys.stderr)
            return 1
    return stop.exit_status or status


def _compare(options: argparse.Namespace, study: "Study", out: "Console") -> int:
    from search.comparison import comparison
    from search.repeats import merged, read

    out.print(comparison(merged([read(path) for path in options.compare]), study))
    return 0


def _variants(
    options: argparse.Namespace, study: "Study", database: "Database", out: "Console", stop: "Stop"
) -> int:
    from search.comparison import comparison
    from search.joining import stored_definition
    from search.repeats import REPRODUCED, repeats, write
    from search.reruns import Reruns
    from search.trials import VARIANT

    variants = study.variants
    names = options.variant or list(variants)
    for name in names:
        if name not in variants:
            known = ", ".join(variants) or "none"
            raise UserError(f"--variant {name}: the study has no such variant; known: {known}")
    own = study.name + REPRODUCED
    mine = study.defined(stored_definition(database, own))
    mine = dataclasses.replace(mine, name=own, variants={}, **given(options, *TRAINING))
    reruns = Reruns(
        study=mine,
        database=database,
        machine=_machine(options, mine, out),
        artifacts=options.artifacts,
        out=out,
    )
    numbers = range(options.first_repeat, options.first_repeat + options.repeats)
    wanted = [
        reruns.fixed({VARIANT: name}, variants[name].params(), repeat)
        for repeat in numbers
        for name in names
    ]
    overview = reruns.train(wanted, stop)
    if options.out is not None:
        write(overview, options.out)
    if stop.is_asked():
        out.print(f"Stopped by {stop}; the same command goes on where it was.")
    out.print(comparison(repeats(overview), study))
    return 0


def _trial(
    options: argparse.Namespace, study: "Study", database: "Database", out: "Console", stop: "Stop"
) -> int:
    from search.again import train_again
    from search.joining import stored_definition
    from search.overview import Overview
    from search.worker import Stopped

    if asked := given(options, *TRAINING):
        raise UserError(f"--{next(iter(asked))}: with --trial it is what the study has")
    definition = stored_definition(database, study.name)
    if definition is None:
        raise UserError(f"--name {study.name}: {database} has no study of this name")
    study = study.defined(definition)
    overview = Overview.of_study(database, study.name)
    trial = overview.find(options.trial)
    machine = _machine(options, study, out)
    if definition["data"] != machine.data_digest:
        raise UserError(f"--data {options.data}: these are not the images that the study has")

    def after_batch(batches: int) -> None:
        if stop.is_asked():
            raise Stopped

    try:
        with stop.on_signals():
            compared = train_again(
                study, trial, overview.of(trial), machine, _plain(out), after_batch
            )
    except Stopped:
        out.print(f"Stopped by {stop}.")
        return stop.exit_status
    out.print(str(compared), soft_wrap=True, markup=False)
    return 0 if compared.is_same else 1


def _plain(out: "Console"):  # type: ignore[no-untyped-def]
    return lambda line: out.print(line, markup=False, highlight=False, soft_wrap=True)


def _machine(options: argparse.Namespace, study: "Study", out: "Console") -> "Machine":
    from search.machine import Machine

    return Machine.of(
        study,
        device_name=options.device,
        threads=options.threads,
        root=options.data,
        say=_plain(out),
    )


main = command(parser(), run)

if __name__ == "__main__":
    sys.exit(main())
