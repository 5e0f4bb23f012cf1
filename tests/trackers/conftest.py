"""A search for the trackers, which do not know its database."""

from dataclasses import replace
from pathlib import Path

import pytest

from search.study.study import Study
from tests.support.curves import Choices
from tests.support.curves import study as curves


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'search.db'}"


@pytest.fixture
def study() -> Study:
    """Trials of an instant, after a variant that is never pruned."""
    return replace(curves, seed=1, variants={"half": Choices(x=0.5)})
