"""Runs of Weights & Biases."""

from pathlib import Path
from typing import Any, Literal

from search.errors import UserError
from search.study.callbacks import Callback, TrialInfo, TrialResult
from search.study.metrics import Epoch
from search.trackers.common import REASON, STATE, VALUE, check_library

INIT_SECONDS = 30.0
"""How long a trial waits for the server at its first epoch."""


class WandB(Callback):
    """Logs a run for each trial; needs the extra `wandb`.

    The run's id is the trial's key, so that a trial that goes on has one run. The steps are epochs.
    """

    def __init__(
        self,
        project: str | None = None,
        *,
        entity: str | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
        folder: str | Path | None = None,
    ) -> None:
        """`project` None is the study's name. None for the others is W&B's own default; `folder` is
        the one for its local files."""
        self._project = project
        self._own: dict[str, Any] = {"entity": entity, "mode": mode, "dir": folder}
        self._run: Any = None
        """The run of the trial that runs."""

    def setup(self) -> None:
        """Raises:
        UserError: W&B is not installed, or has no API key and is not offline.
        """
        check_library("wandb")
        import wandb

        mode = self._own["mode"] or wandb.setup().settings.mode
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            raise UserError(
                "callbacks: W&B has no API key; run `wandb login`, set WANDB_API_KEY, or give "
                'WandB(mode="offline")'
            )

    def teardown(self) -> None:
        self._finish()

    def after_epoch(self, trial: TrialInfo, epoch: Epoch) -> None:
        self._of(trial).log(dict(epoch.metrics), step=epoch.number, commit=True)

    def after_trial(self, trial: TrialInfo, result: TrialResult) -> None:
        run = self._of(trial)
        run.summary.update({VALUE: result.value, STATE: result.state, REASON: result.reason})
        self._finish(exit_code=int(result.state == "failed"))

    def _of(self, trial: TrialInfo) -> Any:
        if self._run is None or self._run.id != trial.key:
            import wandb

            self._finish()
            self._run = wandb.init(
                project=self._project or trial.study,
                id=trial.key,
                resume="allow",
                name=f"{trial.number} {trial.name or ''}".strip(),
                group=trial.study,
                config={**trial.params, "seed": trial.seed},
                reinit="create_new",  # a training may have a run of its own
                settings=wandb.Settings(silent=True, console="off", init_timeout=INIT_SECONDS),
                **self._own,
            )
        return self._run

    def _finish(self, exit_code: int = 0) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.finish(exit_code=exit_code)
