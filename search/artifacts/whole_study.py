"""Copies and deletes a study with its files."""

import logging
from collections.abc import Sequence

from sqlalchemy import select

from search.artifacts.store import Artifacts
from search.database import leases, studies, tables
from search.database.database import Database, new_key
from search.database.queries import StudyRef

log = logging.getLogger(__name__)


def copy(database: Database, artifacts: Artifacts, study: StudyRef, name: str) -> StudyRef:
    """Copy the study and its files under another name. Weights that are not there are told of: a
    worker elsewhere keeps them in its own folder.

    Raises:
        UserError: there is a study of this name.
        OSError: a file cannot be copied; there is no copy of the study then.
    """
    # The files first: a study that is there has its files, however the copy was interrupted.
    prefix, files = studies.files_of(database, study), new_key()
    there = set(artifacts.ids(f"{prefix}-"))
    for artifact_id in there:
        if (content := artifacts.read(artifact_id)) is not None:
            artifacts.write(artifact_id.replace(prefix, files, 1), content)
    kept = tables.weights.c
    query = select(kept.trial, kept.artifact_id).where(kept.study_key == study.key)
    with database.engine.connect() as connection:
        rows = connection.execute(query.order_by(kept.trial)).all()
    missing = [row.trial for row in rows if row.artifact_id not in there]
    if missing:
        log.warning(
            "the weights of trial%s %s are not in %s, and so not in the copy",
            "s" * (len(missing) > 1), ", ".join(map(str, missing)), artifacts,
        )  # fmt: skip
    return studies.copy_study(database, study, name, files=files, prefix=prefix)


def delete(database: Database, artifacts: Artifacts, every: Sequence[StudyRef]) -> None:
    """Delete the studies and their files.

    Raises:
        UserError: workers are running trials of one of them.
        OSError: the files cannot be listed; their study is deleted.
    """
    with database.engine.connect() as connection:
        for study in every:  # before the first is deleted
            leases.check_idle(connection, study.key)
    for study in every:
        prefix = studies.files_of(database, study)
        studies.delete_study(database, study)
        for artifact_id in artifacts.ids(f"{prefix}-"):
            artifacts.remove(artifact_id)
