"""Drivers by name."""

import sys

import pytest

from latent_mpc.robots.drivers import DRIVERS, make_driver
from latent_mpc.robots.feetech import FeetechDriver
from latent_mpc.robots.so101 import SO100_SERVOS, so100
from latent_mpc.types import InvalidInputError, UnknownNameError


def test_a_driver_is_made_but_not_connected():
    driver = make_driver("feetech", port="/dev/none", calibration="none.yaml")
    assert isinstance(driver, FeetechDriver) and driver.disarm() is not None


def test_unknown_names_list_what_exists():
    with pytest.raises(UnknownNameError, match=r"unknown driver 'kuka'; available: .*'feetech'.*'ur'"):
        make_driver("kuka")


def test_a_spec_may_be_named():
    driver = make_driver("feetech", port="/dev/none", calibration="none.yaml", spec="so100")
    assert driver.spec == so100() and driver.servos == SO100_SERVOS
    with pytest.raises(UnknownNameError, match=r"unknown arm 'so99'; available: .*'fr3'.*'so100'"):
        make_driver("franka", host="none", spec="so99")


def test_an_unknown_option_is_named():
    with pytest.raises(InvalidInputError, match=r"driver 'feetech'.*baud"):
        make_driver("feetech", baud=9600)


@pytest.mark.parametrize("name", [name for name, (_, _, extra) in DRIVERS.items() if extra])
def test_a_missing_package_names_its_extra(name, monkeypatch):
    module, _, extra = DRIVERS[name]
    monkeypatch.delitem(sys.modules, f"latent_mpc.robots.{module}", raising=False)
    for package in ("franky", "roslibpy", "trossen_arm", "rtde_control", "rtde_receive", "dashboard_client"):
        monkeypatch.setitem(sys.modules, package, None)  # importing it raises ImportError
    with pytest.raises(InvalidInputError, match=rf"pip install 'latent-mpc\[{extra}\]'"):
        make_driver(name)
