from __future__ import annotations

from loaderlab.config import UserError, WrongUsage, refuse


class OwnError(UserError):
    pass


def test_an_error_names_setting_value_rule_and_override() -> None:
    error = refuse("loader.num_workers", -1, "must be at least 0", "loader.num_workers=2")
    assert str(error) == "loader.num_workers=-1: must be at least 0. Type for example: loader.num_workers=2"
    assert type(error) is WrongUsage


def test_an_error_can_have_a_single_correction_and_its_own_class() -> None:
    error = refuse("loader", "spdl", "needs ids", "loader=native", is_example=False, error=OwnError)
    assert str(error) == "loader=spdl: needs ids. Type: loader=native"
    assert type(error) is OwnError
