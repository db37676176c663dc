"""Conformance: what every plug-in must do, as plain functions for any test runner.

A regressor of your own passes when this does::

    @pytest.mark.parametrize("check", testing.REGRESSOR_CHECKS)
    def test_mine(check):
        check(Mine)

an exporter with ``testing.EXPORTER_CHECKS`` in their place, and a launcher, which needs the trainer
installed and its cluster at hand::

    @pytest.mark.parametrize("check", testing.LAUNCHER_CHECKS)
    def test_mine(check, tmp_path):
        check(testing.Bench(Mine, tmp_path))

Each check raises ``AssertionError`` with what was expected and what was found.
"""

from regmix.testing.exporters import EXPORTER_CHECKS, check_exporter
from regmix.testing.launchers import LAUNCHER_CHECKS, Bench, check_launcher
from regmix.testing.regressors import REGRESSOR_CHECKS, check_regressor

__all__ = [
    "EXPORTER_CHECKS",
    "LAUNCHER_CHECKS",
    "REGRESSOR_CHECKS",
    "Bench",
    "check_exporter",
    "check_launcher",
    "check_regressor",
]
