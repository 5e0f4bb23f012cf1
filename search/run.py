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
    from search.claims import Claims
    from search.objective import Objective
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
        type=whole(1),
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
    variants = made.add_mutually_exclusive_group()
    variants.add_argument(
        "--variants",
        action="store_true",
        help="run the study's fixed variants first (default)",
    )
    variants.add_argument(
        "--no-variants", action="store_true", help="enqueue none of the fixed variants"
    )
    return made


def run(options: argparse.Namespace) -> int:
    """Check what was asked, then search; nothing is written before all of it is known to fit."""
    started = time.monotonic()
    from search import choices, storage, storage_url
    from search.study import load

    study = load(options.study)
    typical = next(iter(study.variants.values()), None)
    names = ("trials", "epochs", "images", "seed", "select")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if options.no_variants:
        given["variants"] = {}
    study = dataclasses.replace(study, **given)
    enqueue = [choices.parse_params(text, study.ranges) for text in options.enqueue]
    name = options.name or study.name
    storage_url.check(options.storage)
    _check_folder(options.artifacts)

    import optuna

    from search import data, device
    from search.checkpoints import Checkpoints
    from search.claims import Claims
    from search.estimate import epoch_seconds
    from search.joining import join
    from search.objective import Objective
    from search.overview import Observer
    from search.presence import Presence
    from search.summary import console, summary
    from search.training import Splits
    from search.view import following
    from search.worker import Stop

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    out = console()
    where = device.choose(options.device)
    device.prepare(where, options.threads)
    dataset = data.load(study.dataset, options.data, out.print)
    splits = Splits.of(
        dataset,
        images=study.images,
        hold_out=study.select == "validation",
        batch_size=study.batch_size,
        device=where,
    )
    database = storage.Database(options.storage)
    joined = join(database, study, name, data_digest=dataset.digest, enqueue=enqueue)
    observer = Observer(database, joined)
    done = len(observer.look().finished)
    out.print(f"Study {name} in {database}: {done} of {study.trials} trials done.")
    out.print(f"Look at it with: optuna-dashboard {database}", soft_wrap=True)
    status = 0
    if done < study.trials:
        if typical is not None:
            took = epoch_seconds(typical, splits, batch_size=study.batch_size, device=where)
            out.print(f"On {device.describe(where)}: an epoch takes about {took:.2g} seconds.")
        folder = options.artifacts / name
        checkpoints = Checkpoints(folder / "checkpoints")
        checkpoints.sweep(observer.look().begun)
        presence = Presence(folder / "workers")
        objective = Objective(
            study=study,
            joined=joined,
            database=database,
            checkpoints=checkpoints,
            splits=splits,
            device=where,
            worker=presence.worker,
            measure_train=options.measure_train,
        )
        claims = Claims(database, joined, presence, budget=study.trials)
        stop = Stop(deadline=started + options.timeout if options.timeout else None)
        with following(observer, out, epochs=study.epochs, budget=study.trials):
            status = _work(objective, claims, stop)
        if stop.is_asked() and len(observer.look().finished) < study.trials:
            out.print(f"Stopped by {stop}; the same command goes on where it was.")
    out.print(summary(observer.look(), study, study.trials))
    database.close()
    return status


def _work(objective: "Objective", claims: "Claims", stop: "Stop") -> int:
    """Run trials until the budget is spent or a signal or the time stops it; return the status."""
    from search.worker import KeepsFailing, work

    with stop.on_signals():
        try:
            work(objective, claims, stop)
        except KeepsFailing as error:
            print(f"search.run: {error}", file=sys.stderr)
            return 1
    return 128 + stop.signal if stop.signal else 0


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
