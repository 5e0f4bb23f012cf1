"""Find the weights that a study kept, and classify images with them.

    from search.weights import find, load
    classifier = load(find("sqlite:///search.db", "cifar", "best"))
    print(classifier.classify("frog.png"))

A downloaded file is loaded by its path: `load("cifar-17.safetensors")`. Of any other training the
state after the last epoch is kept:

    from search.weights import find, state
    model.load_state_dict(state(find("sqlite:///search.db", "my-study", "best"))["model"])
"""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial
from sqlalchemy import select

from search.analysis.answer import answer
from search.artifacts.store import Artifacts, open_artifacts
from search.database import url as storage_url
from search.database.database import Database
from search.database.snapshot import Overview
from search.database.studies import study_called
from search.database.tables import weights as table
from search.errors import UserError
from search.files import file_sha256
from search.study.trial_attributes import VARIANT, is_first_run
from search.vision.classifier import Classifier, load
from search.worker import state as states

__all__ = ["Classifier", "find", "load", "state"]


def state(path: str | Path) -> Mapping[str, Any]:
    """Load the state of a training from a file, which need not be trusted: no code of it is run.

    Its tensors are on the CPU.

    Raises:
        UserError: there is no such file, or it is no state.
    """
    try:
        return states.load(Path(path).read_bytes(), "cpu")
    except (OSError, states.UnreadableState) as error:
        raise UserError(f"state {path}: no state of a training ({error})") from error


def find(
    storage: str, study: str, trial: str | int, *, artifacts: str | Path = "artifacts"
) -> Path:
    """Return the path of a trial's weights, after checking the file's SHA-256 with the database.

    `storage` is the URL of the database and `study` the study's name in it. `trial` is a number, a
    variant's name, or `best`: the best by the mean over fresh seeds, once there are re-runs.
    `artifacts` is the value of the search's `--artifacts`; a file in a bucket is copied once to
    this machine's folder for temporary files.

    Raises:
        UserError: the database, the study or the trial does not exist, the weights were not kept,
            or their file is missing or damaged.
    """
    storage_url.check(storage, must_exist=True)
    with closing(Database(storage, may_create=False)) as database:
        study_called(database, study)
        overview = Overview.of_study(database, study)
        found = _find(overview, trial, answer(database, overview).best)
        rows = _rows(database, overview.study_key)
    if overview.value(found) is None or found.number not in rows:
        raise UserError(_not_kept(found, [t for t in overview.ranked if t.number in rows]))
    sha256, artifact_id = rows[found.number]
    return _verified(open_artifacts(str(artifacts)), artifact_id, sha256, found.number)


def _find(overview: Overview, asked: str | int, best: FrozenTrial | None) -> FrozenTrial:
    trials = overview.trials
    if asked == "best":
        if best is not None:
            return best
        raise UserError("trial best: no trial of the study is complete yet")
    runs = [t for t in trials if t.user_attrs.get(VARIANT) == asked and is_first_run(t.user_attrs)]
    if runs:
        # Of several, only one is complete: the others failed, or other programs gave their trials
        # this name later.
        complete = [trial for trial in runs if overview.value(trial) is not None]
        return (complete or runs[-1:])[0]
    for trial in trials:
        if str(trial.number) == str(asked):
            return trial
    variants = dict.fromkeys(t.user_attrs[VARIANT] for t in trials if VARIANT in t.user_attrs)
    known = ", ".join([f"0 to {len(trials) - 1}", "best", *variants]) if trials else "none"
    raise UserError(f"trial {asked}: the study has no such trial; it has {known}")


def _rows(database: Database, study_key: str) -> dict[int, tuple[str, str]]:
    """Return the SHA-256 and artifact id of the kept weights, by trial number."""
    query = select(table).where(table.c.study_key == study_key)
    with database.engine.connect() as connection:
        return {row.trial: (row.sha256, row.artifact_id) for row in connection.execute(query)}


def _not_kept(trial: FrozenTrial, there: list[FrozenTrial]) -> str:
    known = ", ".join(f"{t.number} {t.user_attrs.get(VARIANT, '')}".strip() for t in there)
    return (
        f"trial {trial.number}: it is {trial.state.name}, and its weights were not kept; the study "
        f"has those of {known or 'no trial'}"
    )


def _verified(artifacts: Artifacts, artifact_id: str, sha256: str, number: int) -> Path:
    try:
        path = artifacts.fetch(artifact_id, sha256)
    except OSError as error:
        raise UserError(
            f"trial {number}: its weights cannot be read from {artifacts}: {error}"
        ) from error
    found = file_sha256(path)
    if found is None:
        raise UserError(
            f"trial {number}: its weights are not in {artifacts}; name the folder or bucket of "
            "the worker that trained it, which is the value of its --artifacts"
        )
    if found != sha256:
        raise UserError(
            f"trial {number}: {path} is damaged: its SHA-256 is {found[:16]}… and not "
            f"{sha256[:16]}…; restore the file, or train the trial again"
        )
    return path
