"""Options shared by several commands.

No slow imports here, so that `--help` and mistyped options respond immediately.
"""

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from search.cli.parser import seconds, whole

if TYPE_CHECKING:
    from search.reporting.commands import Commands
    from search.study.definition import Definition
    from search.study.study import Study

DEFAULT_STORAGE = "sqlite:///search.db"
STORAGE_VARIABLE = "SEARCH_STORAGE"
DATA_HELP = (
    "folder of the image files, which are downloaded if they are missing, and of the picture "
    "folders of your own studies (default: data/)"
)
STUDY_HELP = (
    "cifar, digits, or the path of a Python file that defines `study`; see studies/your-own.md "
    "(required)"
)
MOST_WORKERS = 1024
"""Maximum number of workers of one command."""
TRAINING = ("epochs", "images", "seed", "select", "precision")
"""Options that affect a trial's metrics."""
PLACES = ("study", "storage", "data", "artifacts")
"""Options for where everything is; also fields of `search.worker.config.WorkerConfig`."""


class Options(Protocol):
    """A parser, or a group of its options."""

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action: ...


def add_study(parser: Options) -> None:
    """Add the options that select a study and its database."""
    parser.add_argument(
        "--study",
        required=True,
        metavar="NAME",
        help=STUDY_HELP,
    )
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="name of the study in the database (default: the study's)",
    )
    add_storage(parser)


def add_storage(parser: Options) -> None:
    """Add the option that selects the database."""
    parser.add_argument(
        "--storage",
        metavar="URL",
        default=_default_storage(),
        help="database: sqlite:///FILE on a local disk, or "
        "postgresql://USER:PASSWORD@HOST/DATABASE with the extra `postgres` "
        f"(default: ${STORAGE_VARIABLE}, or {DEFAULT_STORAGE})",
    )


def add_search(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that train the trials of a study in a database."""
    places = parser.add_argument_group("study and files")
    add_study(places)
    places.add_argument(
        "--data",
        metavar="DIR",
        type=Path,
        default=Path("data"),
        help=DATA_HELP,
    )
    add_artifacts(places)
    training = parser.add_argument_group("training of a trial")
    add_training(training)
    training.add_argument(
        "--select",
        choices=("test", "validation"),
        help="prune and rank on test accuracy, or on the accuracy on the last tenth of the "
        "training images, which is then held out (default: the study's; test)",
    )


def add_artifacts(parser: Options) -> None:
    """Add the option for the folder or bucket of artifacts."""
    parser.add_argument(
        "--artifacts",
        metavar="DIR",
        default="artifacts",
        help="folder, or s3://BUCKET/PREFIX with the extra `s3`, of checkpoints (for cifar 10 to "
        "30 MB per running trial) and of weights (9 to 10 MB for each variant and each of the 5 "
        "best trials) (default: artifacts/)",
    )


def add_training(parser: Options) -> None:
    """Add the options of `TRAINING` but `--select`."""
    parser.add_argument(
        "--epochs",
        type=whole(1),
        metavar="N",
        help="epochs of a trial that is not pruned (default: the study's; 10 for cifar, 8 for "
        "digits)",
    )
    parser.add_argument(
        "--images",
        type=whole(2),
        metavar="N",
        help="train on the first N images, and test on at most the first N (default: all; cifar "
        "has 50000 and 10000)",
    )
    parser.add_argument(
        "--precision",
        type=_precision,
        metavar="NAME",
        help="auto, float32 or bfloat16: precision of the products of networks on images, a part "
        "of the study's definition; bfloat16 needs CUDA, or a CPU with AMX or AVX512-BF16; auto "
        "takes that of a study that exists, or else bfloat16 on CUDA and float32 elsewhere "
        "(default: auto)",
    )
    parser.add_argument(
        "--seed",
        type=whole(0, 2**63 - 1),
        metavar="N",
        help="seed of all random draws (default: the study's; 0 for cifar and digits)",
    )


def add_running(parser: Options) -> None:
    """Add the options for where and how long a command trains."""
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="auto, cuda, cuda:1, mps or cpu; auto selects CUDA if available, then MPS, then the "
        "CPU (default: auto)",
    )
    parser.add_argument(
        "--threads",
        type=whole(1, 1024),
        metavar="N",
        help="PyTorch CPU threads per worker (default: 1)",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="stop after this many seconds, at the end of a batch; run the same command again to "
        "resume (default: no limit)",
    )


def add_repeats(parser: Options, default: str) -> None:
    """Add the options that select seeds; `default` is the text for the default of `--repeats`."""
    parser.add_argument(
        "--repeats",
        type=whole(1, 1000),
        metavar="K",
        help=f"train with K fresh seeds, the same for all trials (default: {default})",
    )
    parser.add_argument(
        "--first-repeat",
        type=whole(0, 1000),
        default=0,
        metavar="K",
        help="number of a variant's first seed, to divide the seeds among machines (default: 0)",
    )


def workers(text: str) -> int | None:
    """Parse a number of workers; None for `auto`."""
    if text == "auto":
        return None
    try:
        return whole(1, MOST_WORKERS)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"auto, or {error}") from None


def _default_storage() -> str:
    return os.environ.get(STORAGE_VARIABLE) or DEFAULT_STORAGE


def _precision(text: str) -> str | None:
    """Parse --precision; None for auto."""
    if text not in ("auto", "float32", "bfloat16"):
        raise argparse.ArgumentTypeError(f"give auto, float32 or bfloat16, not {text!r}")
    return None if text == "auto" else text


def changes(options: argparse.Namespace, study: "Study") -> dict[str, Any]:
    """Return the fields of the study and its trainer that the options change, for `Study.changed`.

    Raises:
        UserError: the study's metric is not measured on the split of --select.
    """
    found = given(options, "name", "epochs", "images", "seed", "precision")
    if options.select is not None:
        selected = study.select(options.select)
        found |= {"metric": selected.metric, "final_metric": selected.final_metric}
    return found


def commands(options: argparse.Namespace) -> "Commands":
    """Return what writes commands on the database of --storage."""
    from sqlalchemy import make_url

    from search.database.url import shown
    from search.reporting.commands import Commands

    if options.storage == _default_storage():
        return Commands()
    url = shlex.quote(shown(options.storage))
    if make_url(options.storage).password:
        return Commands(variable=f"{STORAGE_VARIABLE}={url}")
    return Commands(option=f"--storage {url}")


def named(options: argparse.Namespace) -> str:
    """Return the options that name the study, as a shell's words."""
    found = {"--study": options.study, "--name": options.name}
    return " ".join(f"{option} {shlex.quote(v)}" for option, v in found.items() if v is not None)


def given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return the named options that have a value."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def check_storage(
    url: str, study: str | None = None, *, must_exist: bool = True
) -> "Definition | None":
    """Check the database of `--storage`, and return the definition of the study of this name in it,
    if there is one; write nothing.

    Optuna then logs errors only, since its warnings contain whole SQL statements.

    Raises:
        UserError: see `search.database.url.check` and `search.database.identity.identify`.
    """
    import optuna

    from search.database.studies import definition_in
    from search.database.url import check

    found = check(
        url,
        must_exist=must_exist,
        look=lambda connection: definition_in(connection, study) if study else None,
    )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return found
