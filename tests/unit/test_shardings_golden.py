"""How each config's parameters, optimiser and averages are cut is what was last reviewed."""

from __future__ import annotations

import pytest

from benchmarks import shardings
from benchmarks.configs import CASES


@pytest.mark.parametrize("name", CASES)
def test_the_shardings_of_a_config_are_the_golden_ones(name):
    found = shardings.difference(name)
    assert not found, "\n".join([*found, f"python -m benchmarks.shardings --only={name} --write"])


def test_every_config_file_has_a_golden_table():
    configs = {path.name for path in shardings.GOLDEN.parents[1].glob("configs/*.py")}
    covered = {case.config.partition(":")[0].removeprefix("configs/") for case in CASES.values()}
    assert covered == configs - {"__init__.py"}
