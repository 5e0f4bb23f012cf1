"""Faults made for real, at random moments: the finished database is that of an undisturbed run."""

import random
from contextlib import closing
from pathlib import Path

import pytest

from search.study.pruners import SuccessiveHalving
from tests.faults import Ordeal

pytestmark = pytest.mark.slow


def test_many_workers_lose_nothing_by_any_fault(
    url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue("server") if url.startswith("postgresql") else None
    seed = random.randrange(10**6)
    print(f"random seed {seed}")  # shown if the test fails
    (tmp_path / "artifacts").mkdir()
    pruner = None if server is not None else SuccessiveHalving()
    ordeal = Ordeal(url, tmp_path, seed=seed, kills=8, away_seconds=3, pruner=pruner, server=server)
    with closing(ordeal):
        ordeal.search()
        ordeal.check()
    assert ordeal.counts["killed"] == 8
    assert ordeal.counts["trials trained again with the same figures"] >= 20
