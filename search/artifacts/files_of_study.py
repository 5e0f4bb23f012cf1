"""The files of one study: checkpoints and kept weights.

A file is written completely or not at all. Its artifact id consists of the study's prefix, the
trial's number, for a checkpoint the epoch, and the SHA-256. So the same content has the same name,
and no worker overwrites another's file.
"""

import hashlib
import logging
from collections.abc import Iterable, Set

from search.artifacts.store import Artifacts

log = logging.getLogger(__name__)


class StudyFiles:
    """The files of one study in a place that other studies may share.

    Only files with the study's prefix are ever removed: a copied database also lists files of the
    original.
    """

    def __init__(self, artifacts: Artifacts, files: str) -> None:
        """`files` is the prefix of the ids of the study's files, see
        `search.database.tables.studies`."""
        self._artifacts = artifacts
        self.prefix = f"{files}-"

    def __str__(self) -> str:
        return str(self._artifacts)

    def trial_prefix(self, number: int) -> str:
        """Return the prefix of the ids of the trial's files."""
        return f"{self.prefix}{number}-"

    def artifact_id(self, number: int, sha256: str, *, epoch: int | None = None) -> str:
        """Return the id of the trial's weights, or of its checkpoint after `epoch`."""
        middle = "" if epoch is None else f"{epoch}-"
        return f"{self.trial_prefix(number)}{middle}{sha256[:16]}"

    def write(self, number: int, content: bytes, *, epoch: int | None = None) -> str:
        """Write the trial's weights, or its checkpoint after `epoch`; return the SHA-256 in
        hexadecimal.

        Raises:
            OSError: there is no room or no answer; nothing of the file is left.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        self._artifacts.write(self.artifact_id(number, sha256, epoch=epoch), content)
        return sha256

    def read(
        self, number: int, sha256: str, *, epoch: int | None = None, listed: Iterable[str] = ()
    ) -> bytes | None:
        """Return the content; None if the file is missing or damaged.

        The trial of a copied database lists the original's file: it is looked for among the ids
        that are `listed`, too.
        """
        own = self.artifact_id(number, sha256, epoch=epoch)
        ending = own.removeprefix(self.prefix)
        for artifact_id in (own, *(one for one in listed if one.endswith(f"-{ending}"))):
            try:
                content = self._artifacts.read(artifact_id)
            except OSError as error:
                log.warning("trial %d: a file of it cannot be read: %s", number, error)
                return None
            if content is not None and hashlib.sha256(content).hexdigest() == sha256:
                return content
        return None

    def remove(self, artifact_ids: Iterable[str]) -> None:
        for artifact_id in artifact_ids:
            if artifact_id.startswith(self.prefix):
                self._artifacts.remove(artifact_id)

    def ids(self) -> list[str]:
        """Return the ids of all files of the study; empty if they cannot be listed."""
        try:
            return self._artifacts.ids(self.prefix)
        except OSError as error:
            log.warning("unneeded files are not removed: %s", error)
            return []

    def surplus(self, ids: Iterable[str], *, kept: Set[str], running: Set[int]) -> list[str]:
        """Return those of `ids` that are neither `kept` nor belong to `running` trials."""
        numbers = {one: one.removeprefix(self.prefix).partition("-")[0] for one in ids}
        return [
            one
            for one, number in numbers.items()
            if one not in kept and number.isdigit() and int(number) not in running
        ]
