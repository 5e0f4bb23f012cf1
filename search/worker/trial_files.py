"""The files of a running trial: a checkpoint after each epoch, and its weights after the last.

A file only saves time or keeps a copy: one that cannot be written costs a warning, not the trial.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from search.artifacts.retention import Retention
from search.database.database import Database
from search.database.leases import Claim
from search.database.optuna_internals import ARTIFACT
from search.study.metrics import Epoch
from search.study.study import Study
from search.study.training import About
from search.study.trial_attributes import VARIANT
from search.worker.guarded_training import GuardedTraining

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrialFiles:
    study: Study
    database: Database
    kept: Retention
    claim: Claim
    trial: FrozenTrial
    """With all its choices."""

    def restore(self, training: GuardedTraining, recorded: Sequence[Epoch]) -> int:
        """Load the state after the last recorded epoch and return that epoch's number.

        0 if there is none, or if the file is lost: the trial is then trained from its start. After
        the last epoch nothing is left to train, unless its weights are wanted and lost.
        """
        if not recorded:
            return 0
        number = recorded[-1].number
        sha256 = self.database.checkpoint_sha256(self.claim, number)
        if number == self.study.epochs:
            lost = sha256 is not None and self._read(sha256) is None
            return 0 if lost and self._is_wanted(recorded[-1]) else number
        content = None if sha256 is None else self._checkpoint(sha256, number)
        if content is None:
            log.warning(
                "trial %d: its checkpoint is not in %s; it is trained again up to epoch %d",
                self.claim.number, self.kept.store, number,
            )  # fmt: skip
            return 0
        training.load(content)
        return number

    def save(self, training: GuardedTraining, epoch: Epoch) -> str | None:
        """Write the checkpoint after `epoch`, or the weights after the last one.

        Return the file's SHA-256 in hexadecimal; None if it is not wanted or cannot be written.
        """
        try:
            if epoch.number == self.study.epochs:
                return self._save_weights(training, epoch)
            state = training.state()
            return self.kept.store.write(self.claim.number, state, epoch=epoch.number)
        except OSError as error:
            is_last = epoch.number == self.study.epochs
            what = "its weights are not kept" if is_last else "no checkpoint written"
            log.warning("trial %d: %s: %s", self.claim.number, what, error)
            return None

    def weights_sha256(self) -> str | None:
        """Return the SHA-256 of the weights saved after the last epoch; None if there are none.

        Weights with another sum belong to another training, which the recorded metrics are not of.
        """
        sha256 = self.database.checkpoint_sha256(self.claim, self.study.epochs)
        if sha256 is None or self._read(sha256) is not None:
            return sha256
        log.warning("trial %d: its weights are not kept: the file is lost", self.claim.number)
        return None

    def _save_weights(self, training: GuardedTraining, epoch: Epoch) -> str | None:
        if not self._is_wanted(epoch):
            return None
        about = About(
            study=self.study.name,
            trial=self.claim.number,
            variant=self.trial.user_attrs.get(VARIANT),
            params=self.trial.params,
            metrics=epoch.metrics,
        )
        return self.kept.store.write(self.claim.number, training.export(about))

    def _is_wanted(self, last: Epoch) -> bool:
        objective = self.study.objective
        return self.kept.wants(self.claim, objective.score(objective.value(last)))

    def _read(self, sha256: str) -> bytes | None:
        return self.kept.store.read(self.claim.number, sha256)

    def _checkpoint(self, sha256: str, epoch: int) -> bytes | None:
        attributes = self.trial.system_attrs
        listed = [key.removeprefix(ARTIFACT) for key in attributes if key.startswith(ARTIFACT)]
        return self.kept.store.read(self.claim.number, sha256, epoch=epoch, listed=listed)
