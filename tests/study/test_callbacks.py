"""What a study accepts as a callback."""

from dataclasses import replace
from typing import Any

import pytest

from search.errors import UserError
from search.study import Callback
from search.study.study import Study


class AfterTrial:
    def after_trial(self, trial: object, result: object) -> None: ...


class Nothing:
    after_epoch = "no method"


def test_a_callback_needs_one_of_the_methods_but_not_the_base_class(study: Study) -> None:
    own: list[Any] = [Callback(), AfterTrial()]
    assert list(replace(study, callbacks=own).callbacks) == own
    assert study.callbacks == ()


@pytest.mark.parametrize(
    ("callbacks", "complaint"),
    [
        ([AfterTrial], r"callbacks: AfterTrial is a class; give an object, AfterTrial\(…\)"),
        ([Callback(), Nothing()], "callbacks: <.*Nothing.*> has neither after_epoch nor after_tri"),
        ([print], "callbacks: <built-in function print> has neither"),
        (Callback(), "callbacks must be a list of callbacks, not <.*Callback"),
    ],
)
def test_what_is_no_callback_is_refused_by_name(
    study: Study, callbacks: Any, complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        replace(study, callbacks=callbacks)


def test_they_are_no_part_of_the_definition(study: Study) -> None:
    assert replace(study, callbacks=[Callback()]).definition("x") == study.definition("x")
