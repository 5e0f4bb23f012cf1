"""A bucket that does not answer costs checkpoints and weights, with a warning, and no figure."""

from pathlib import Path

import pytest
from optuna.trial import TrialState

from search.database.studies import files_of
from tests.support.process import Start
from tests.support.s3 import S3


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_bucket_that_goes_away_costs_no_figure(
    start: Start, bucket: str, s3: S3, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = start(url=f"sqlite:///{tmp_path / 'undisturbed.db'}")
    whole.work()
    process = start(artifacts=bucket)
    epochs = 0

    def disturb(batches: int) -> None:
        nonlocal epochs
        epochs += batches == 1
        if batches == 1 and epochs == 2:
            s3.stop()
        if batches == 1 and epochs == 4:
            s3.start()

    process.run(process.claim(), disturb)
    warnings = [record.getMessage() for record in caplog.records]
    assert sum("trial 0: no checkpoint written: Could not conn" in said for said in warnings) == 2
    process.work()
    process.kept.clean()
    assert process.figures() == whole.figures()
    states = [trial.state for trial in process.trials]
    assert states == [trial.state for trial in whole.trials]
    complete = [number for number, state in enumerate(states) if state == TrialState.COMPLETE]
    key = files_of(process.database, process.ref)
    files = [name.rpartition("/")[2] for name in s3.keys(bucket.split("/")[2])]
    there = [name.split("-") for name in files]
    assert sorted(there) == sorted([key, str(number), sha16] for *_, number, sha16 in there)
    assert {int(number) for _, number, _ in there} <= set(complete)
    assert len(there) >= 2
