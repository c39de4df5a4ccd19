"""Any driver of ours as LeRobot's `Robot`, by its documented interface and without importing it.

value = q 180 / pi of "joint.pos",   100 opening of "gripper.pos"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from latent_mpc.robots.lerobot import JointUnits
from latent_mpc.robots.robot import Driver, DriverError, Setpoint
from latent_mpc.types import LatentMPCError


class AsLeRobot:
    """A driver of ours as LeRobot's `Robot`: degrees, the gripper from 0 to 100, no cameras.

    It arms in `connect` and stops and disarms in `disconnect`, as LeRobot's own arms do. Setpoints go to the driver as
    they come: none of the controller's checks stand between, only the driver's own limits.
    """

    config_class = None
    name = "latent_mpc"

    def __init__(self, driver: Driver, id: str | None = None) -> None:
        self._driver, self.id = driver, id
        self.robot_type, self.config, self.calibration = driver.spec.name, None, dict[str, Any]()
        self.cameras = dict[str, Any]()
        count = driver.spec.num_joints
        self._units = JointUnits(driver.spec, "degrees", (1,) * count, (0.0,) * count, "gripper")
        self._connected = False

    @property
    def observation_features(self) -> dict[str, type]:
        return dict.fromkeys(self._units.all_keys, float)

    @property
    def action_features(self) -> dict[str, type]:
        return dict.fromkeys(self._units.all_keys, float)

    @property
    def is_connected(self) -> bool:
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        """The driver refuses to connect to an uncalibrated arm."""
        return True

    def connect(self, calibrate: bool = True) -> None:
        """Open and arm. Raises DriverError; then nothing is left armed or open."""
        if self._connected:
            raise DriverError(f"{self.robot_type} is connected already; disconnect it first")
        self._driver.connect()
        try:
            self._driver.arm()
        except LatentMPCError:
            self._driver.disarm()
            self._driver.close()
            raise
        self._connected = True

    def calibrate(self) -> None:
        """Nothing: the driver's own calibration holds."""

    def configure(self) -> None:
        """Nothing: the driver configures the arm when it connects."""

    def get_observation(self) -> dict[str, float]:
        """The newest reading. Raises DriverError, also for a fault of the arm."""
        state = self._driver.read()
        if state.fault:
            raise DriverError(f"{self.robot_type}: {state.fault}")
        return self._units.to_values(state.q_rad, state.gripper)

    def send_action(self, action: Mapping[str, Any]) -> dict[str, float]:
        """Send a setpoint; returns what was really sent. Raises InvalidInputError, DriverError."""
        sent = self._driver.write(Setpoint(*self._units.from_values(action)))
        return self._units.to_values(sent.q_rad, sent.gripper)

    def disconnect(self) -> None:
        """Stop, disarm, close. Raises DriverError, after having tried everything, when a joint kept its torque."""
        self._connected = False
        try:
            self._driver.stop()
        except LatentMPCError:
            pass  # disarming is what matters now
        failed = self._driver.disarm()
        self._driver.close()
        if failed:
            raise DriverError(f"{self.robot_type} kept its torque: {'; '.join(failed)}")
