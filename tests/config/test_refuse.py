from __future__ import annotations

from loaderlab.config import UserError, refuse


class OwnError(UserError):
    pass


def test_a_refusal_names_setting_value_rule_and_override() -> None:
    error = refuse("loader.num_workers", -1, "must be at least 0", "loader.num_workers=2")
    assert str(error) == "loader.num_workers=-1: must be at least 0. Type for example: loader.num_workers=2"
    assert type(error) is UserError


def test_a_refusal_may_have_one_way_out_and_a_class_of_its_own() -> None:
    error = refuse("loader", "spdl", "needs ids", "loader=native", is_example=False, error=OwnError)
    assert str(error) == "loader=spdl: needs ids. Type: loader=native"
    assert type(error) is OwnError
