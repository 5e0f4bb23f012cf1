"""What an epoch costs in requests to a bucket."""

from collections import Counter
from typing import Any

import pytest

from tests.support.process import Start


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_an_epoch_costs_two_requests_and_lists_nothing(start: Start, bucket: str) -> None:
    process = start(artifacts=bucket)
    asked: list[Counter[str]] = [Counter()]

    def count(model: Any, **rest: object) -> None:
        asked[-1][model.name] += 1

    def next_epoch(batches: int) -> None:
        if batches == 1:
            asked.append(Counter())

    client = process.kept.store._artifacts._client  # type: ignore[attr-defined]  # noqa: SLF001
    events = client.meta.events
    events.register("before-call.s3", count)
    process.run(process.claim(), next_epoch)
    first, *between, last = asked[1:]
    assert first == {"PutObject": 1}
    assert between == [{"PutObject": 1, "DeleteObject": 1}] * 2
    # The weights are written, and seen to be there.
    assert last == {"PutObject": 1, "DeleteObject": 1, "GetObject": 1}
