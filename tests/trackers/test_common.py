"""What holds for all trackers: only a search needs their libraries, and it names their extras."""

import subprocess
import sys
from pathlib import Path

import pytest

from search.errors import UserError
from search.study.callbacks import Callback
from search.trackers import MLflow, TensorBoard, WandB
from tests.support.commands import Command, fresh_environment

STUDY = """
from dataclasses import replace
from search.trackers import MLflow, TensorBoard, WandB, Webhook
from tests.support.curves import study
callbacks = [WandB(), MLflow(), TensorBoard(), Webhook("https://host/")]
study = replace(study, callbacks=callbacks, trials=1)
"""


@pytest.mark.slow
def test_a_study_with_trackers_loads_without_their_libraries(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(STUDY)
    code = (
        "import sys; from search.study import load; load('mine.py');"
        "sys.exit(bool({'tensorboard', 'mlflow', 'wandb', 'torch'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=fresh_environment())
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("tracker", "name"), [(MLflow(), "mlflow"), (TensorBoard(), "tensorboard"), (WandB(), "wandb")]
)
def test_a_missing_library_is_named_with_its_extra(
    tracker: Callback, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(UserError, match=rf"{name} cannot be imported; .*pip install '\.\[{name}\]"):
        tracker.setup()


def test_a_search_with_a_missing_library_ends_before_it_begins(
    search: Command, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(f"import sys\nsys.modules['wandb'] = None\n{STUDY}")
    done = search("run", "--study", "mine.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "python -m search.run: error: callbacks: wandb cannot be imported; it needs the extra "
        "`wandb`: pip install '.[wandb]'\n"
    )
    assert not (tmp_path / "search.db").exists()
