"""A world as a driver, stepped by hand: simulated arm and controller on one clock, without processes.

clock ← clock + 1 / control_hz;   physics goes on until it has caught up with the clock
"""

from __future__ import annotations

from latent_mpc.robots.robot import Capabilities, RobotState, Setpoint
from latent_mpc.robots.world import World


class WorldDriver:
    """See `robots.robot.Driver`; nothing of it can fail.

    Attributes:
        world: the arm and its scene. now_s: the clock, for whoever ticks the controller.
    """

    capabilities = Capabilities(hardware_clock=True, torque=True)

    def __init__(self, world: World) -> None:
        self.world, self.spec = world, world.spec
        self.now_s, self._begin_s = 0.0, world.data.time
        self._ticks = self._readings = self._commands = 0

    def connect(self) -> None:
        pass

    def arm(self) -> None:
        self.world.power(True)

    def read(self) -> RobotState:
        w = self.world
        self._readings += 1
        return RobotState(
            w.q_rad, w.qd_rad_s, w.gripper, self.now_s, self.now_s, self._readings, torque_nm=w.torque_nm.copy()
        )

    def write(self, setpoint: Setpoint) -> Setpoint:
        self._commands += 1
        self.world.move(self._commands, setpoint.q_rad, setpoint.gripper, setpoint.motion_s)
        return setpoint

    def stop(self) -> None:
        self.world.brake()

    def disarm(self) -> tuple[str, ...]:
        self.world.power(False)
        return ()

    def close(self) -> None:
        pass

    def advance(self) -> None:
        """The world goes on for one tick."""
        self._ticks += 1
        self.now_s = self._ticks / self.spec.control_hz
        half = self.world.model.opt.timestep / 2
        while self.world.data.time - self._begin_s < self.now_s - half:
            self.world.step()
