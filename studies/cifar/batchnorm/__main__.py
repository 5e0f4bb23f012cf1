"""Examine a variant's batch normalization: `python -m studies.cifar.batchnorm --variant ...`.

Trains the variant with the same seeds as `search.reproduce`, and measures the normalization after
every epoch. It uses no database.
"""
# PYTHON_ARGCOMPLETE_OK: `search.cli.completion` answers the Tab key.

import argparse
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from search.cli.options import DATA_HELP, STUDY_HELP, add_repeats, add_running, add_training, given
from search.cli.parser import Parser, command
from search.errors import UserError
from search.files import is_stream

if TYPE_CHECKING:
    from search.study.study import Study
    from search.vision import ImageClassification, ImageShape
    from search.vision.session import ImageSession
    from search.worker.machine import Machine
    from search.worker.stop import Stop
    from studies.cifar import Choices
    from studies.cifar.batchnorm.records import ProbedEpoch, Run
    from studies.cifar.network import Network

CHANGES = ("none", "before-relu", "affine", "eps-0.001")
"""The names of `studies.cifar.batchnorm.changes.CHANGES`."""
SAMPLE = 2000
"""Number of images that a network is measured on, the first training images."""


EPILOG = """\
examples:
  python -m studies.cifar.batchnorm --study cifar --variant question-1 --repeats 3
  python -m studies.cifar.batchnorm --study cifar --variant question-1 --change before-relu
  python -m studies.cifar.batchnorm --study cifar --show probes.csv   train nothing

exit status: 0 done, 2 invalid request,
129, 130 and 143 stopped by SIGHUP, SIGINT and SIGTERM (the same command resumes)
"""


def parser() -> Parser:
    made = Parser(
        "studies.cifar.batchnorm",
        "Train a variant with batch normalization over several seeds, and measure the "
        "normalization after every epoch; or show earlier measurements.",
    )
    made.epilog = EPILOG
    made.add_argument(
        "--study",
        required=True,
        metavar="NAME",
        help=STUDY_HELP,
    )
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--variant", metavar="NAME", help="the variant to train (required, or --show)"
    )
    what.add_argument(
        "--show",
        action="append",
        type=Path,
        metavar="FILE",
        help="train nothing, and show a file written by --out; can be given several times "
        "(default: train --variant)",
    )
    made.add_argument(
        "--change",
        choices=CHANGES,
        default="none",
        help="change the network: normalize before the ReLU, with a learnable scale and shift, or "
        "with a hundred times the usual eps (default: none)",
    )
    add_repeats(made, "8")
    made.add_argument(
        "--out",
        type=Path,
        default=Path("probes.csv"),
        metavar="FILE",
        help="CSV file to append runs to; a run in it with the same settings is not trained again "
        "(default: probes.csv)",
    )
    made.add_argument(
        "--data",
        metavar="DIR",
        type=Path,
        default=Path("data"),
        help=DATA_HELP,
    )
    add_training(made)
    add_running(made)
    return made


def run(options: argparse.Namespace) -> int:
    """Train and measure the runs that the file does not have, then show all."""
    started = time.monotonic()
    from search.reporting.terminal import console
    from search.study.space import written
    from search.study.study_file import load
    from studies.cifar.batchnorm.records import ProbedEpoch, append, group_of, read, tables

    out = console()
    study: Study[Choices] = load(options.study)
    dataset = _trainer(study).dataset
    if options.show:
        runs = read(options.show, "--show")
        if others := {run[0].dataset for run in runs} - {dataset}:
            raise UserError(
                f"--show: a run's dataset is {min(others)}, and the study's is {dataset}; "
                "give the --study of the runs"
            )
        out.print(tables(runs))
        return 0
    study = study.select("test").changed(given(options, "epochs", "images", "seed"))
    choices = _normalized(study, options.variant)
    if is_stream(options.out):
        raise UserError(f"--out {options.out}: a regular file is needed, to append runs to")
    if options.out.exists():
        read([options.out], "--out")
    append(options.out, [])  # fails before the training if the file cannot be written

    from search.worker.machine import Machine
    from search.worker.stop import Stop, Stopped

    stop = Stop(deadline=started + options.timeout if options.timeout else None)
    trainer = _trainer(study)
    machine = Machine.of(
        study,
        device_name=options.device,
        threads=options.threads,
        root=options.data,
        say=out.print,
    )
    which = ProbedEpoch.not_finite(
        variant=options.variant,
        change=options.change,
        repeat=0,
        seed=0,
        number=0,
        dataset=dataset,
        data=str(machine.session.digest)[:16],
        images=trainer.images,
        epochs=study.epochs,
        batch_size=trainer.batch_size,
        choices=written(study.space.params(choices)),
    )

    def there() -> "list[Run]":
        found = read([options.out], "--out")
        return [run for run in found if group_of(run[0]) == group_of(which)]

    done = {run[0].seed for run in there()}
    first = options.first_repeat
    try:
        with stop.on_signals():
            for repeat in range(first, first + (options.repeats or 8)):
                if (seed := study.repeat_seed(repeat)) not in done:
                    of = replace(which, repeat=repeat, seed=seed)
                    append(options.out, _train(study, choices, machine, of, stop))
    except Stopped:
        out.print(f"Stopped by {stop}; the same command trains the missing runs.")
        return stop.exit_status
    out.print(tables(there()))
    return 0


def _trainer(study: "Study[Choices]") -> "ImageClassification[Choices]":
    from search.vision import ImageClassification

    if not isinstance(study.train, ImageClassification):
        raise UserError(f"--study {study.name}: it trains no network on images")
    return study.train


def _normalized(study: "Study[Choices]", variant: str) -> "Choices":
    """Return the choices of the variant.

    Raises:
        UserError: the study has no such variant, or the variant has no normalization.
    """
    normalized = {n: choices for n, choices in study.variants.items() if choices.bn1 != "off"}
    if variant in normalized:
        return normalized[variant]
    fault = "it has no bn1" if variant in study.variants else "the study has no such variant"
    raise UserError(f"--variant {variant}: {fault}; those with bn1: {', '.join(normalized)}")


def _train(
    study: "Study", choices: "Choices", machine: "Machine", which: "ProbedEpoch", stop: "Stop"
) -> "Run":
    """Train and measure the run described by `which`; return it only if it is whole."""
    from search.worker.guarded_training import Diverged
    from search.worker.stop import Stopped
    from studies.cifar import build as build_network
    from studies.cifar.batchnorm.changes import CHANGES as FUNCTIONS
    from studies.cifar.batchnorm.measure import Watch
    from studies.cifar.batchnorm.records import EPOCH_FIGURES

    watches: list[Watch] = []

    def after_batch(batches: int) -> None:
        watches[0].after_batch(batches)
        if stop.is_asked():
            raise Stopped

    session = cast("ImageSession[Choices]", machine.session)

    def build(choices: "Choices", shape: "ImageShape") -> "Network":
        network = build_network(choices, shape)
        watches.append(Watch(network, FUNCTIONS[which.change](network)))
        return network

    changed = replace(session, trainer=replace(session.trainer, build=build))
    training = replace(machine, session=changed).training(
        study, choices, seed=which.seed, is_detailed=False, after_batch=after_batch
    )
    sample = list(session.splits.train.between(0, SAMPLE).batches(which.batch_size))
    name = f"[{which.variant} {which.change} repeat {which.repeat}]"
    run: Run = []
    try:
        for epoch in training.epochs():
            figures = asdict(watches[0].probe(sample))
            own: dict[str, Any] = {name: epoch.metrics[name] for name in EPOCH_FIGURES}
            run.append(replace(which, number=epoch.number, **own, **figures))
            print(f"{name} {study.epoch_text(epoch)}", flush=True)
    except Diverged as error:
        print(f"{name} {error}", flush=True)
        run.append(replace(which, number=len(run) + 1))
    return run


main = command(parser(), run)

if __name__ == "__main__":
    sys.exit(main())
