"""Look at an arm before driving it, and calibrate it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from latent_mpc.robots.feetech_bus import FeetechBus, usb_serial
from latent_mpc.robots.robot import Driver, DriverError, RobotState
from latent_mpc.robots.sign_test import sign_test
from latent_mpc.robots.so101 import MOTIONS, SERVOS
from latent_mpc.robots.sweep import calibrate as lead
from latent_mpc.stations import SIMULATED, RobotChoice
from latent_mpc.types import UnknownNameError


def check(choice: RobotChoice, seconds: float, ask: Callable[[str], bool] | None) -> str:
    """Read an arm for a while and report; with `ask` also nudge each joint that the person allows.

    Raises:
        DriverError: it cannot be reached, or does not do what it is told.
    """
    if choice.name == SIMULATED:
        from latent_mpc.drive import simulated_station

        with simulated_station("PickPlace", 0) as station:
            return _check(station.make(), seconds, ask)
    return _check(choice.driver()(), seconds, ask)


def _check(driver: Driver, seconds: float, ask: Callable[[str], bool] | None) -> str:
    driver.connect()
    try:
        states = _read(driver, seconds)
        lines = _describe(driver, states, seconds)
        if ask is not None:
            driver.arm()
            right = sign_test(driver, MOTIONS, ask)
            driver.stop()
            lines += [f"{name}: {'turns the right way' if ok else 'TURNS THE WRONG WAY'}" for name, ok in right.items()]
    finally:
        failed = driver.disarm()
        driver.close()
    return "\n".join([*lines, *(f"still with torque: {joint}" for joint in failed)])


def _read(driver: Driver, seconds: float) -> list[RobotState]:
    """Every new reading of a while."""
    states = [driver.read()]
    end_s = time.monotonic() + seconds
    with tqdm(total=round(seconds), desc="reading", unit="s") as bar:
        while (now_s := time.monotonic()) < end_s:
            state = driver.read()
            if state.sequence != states[-1].sequence:
                states.append(state)
            bar.update(int(seconds - (end_s - now_s)) - bar.n)
            time.sleep(0.001)
    if len(states) < 2:
        raise DriverError(f"{driver.spec.name} sends the same reading for ever; is its power on?")
    return states


def _describe(driver: Driver, states: list[RobotState], seconds: float) -> list[str]:
    spec = driver.spec
    gaps = 1e3 * np.diff([s.receipt_time_s for s in states])
    q = np.array([s.q_rad for s in states])
    lines = [
        f"{spec.name}: {len(states) / seconds:.0f} readings/s; between two {np.median(gaps):.1f} ms, "
        f"99 % {np.quantile(gaps, 0.99):.1f}, longest {gaps.max():.1f}",
        f"fault: {states[-1].fault or 'none'}; gripper {100 * states[-1].gripper:.0f} % open",
    ]
    for i, name in enumerate(spec.joint_names):
        low, high, now = spec.q_low_rad[i], spec.q_high_rad[i], q[-1, i]
        inside = "" if low <= now <= high else "  OUTSIDE ITS RANGE; calibrate again"
        lines.append(f"{name}: {now:+.3f} rad, range {low:+.3f} to {high:+.3f}, trembles {np.ptp(q[:, i]):.4f}{inside}")
    return lines


def calibrate(port: str, out: Path, ask: Callable[[str], bool], arm: str = "so101") -> str:
    """Lead a person through the calibration of an SO-101 or SO-100 and save it; Enter ends the sweep.

    Raises:
        UnknownNameError: `arm` is neither. Else as `robots.sweep.calibrate`.
    """
    if arm not in SERVOS:
        raise UnknownNameError("arm", arm, list(SERVOS))
    done = threading.Event()

    def wait() -> None:
        sys.stdin.readline()
        done.set()

    waiting = threading.Thread(target=wait, daemon=True)
    with tqdm(bar_format="{desc}") as bar:

        def report(reach: dict[str, tuple[int, int, int]]) -> bool:
            if waiting.ident is None:  # not before the sweep: `ask` reads the same terminal
                waiting.start()
            joints = "  ".join(f"{name} {low}..{now}..{high}" for name, (low, now, high) in reach.items())
            bar.set_description_str(f"Enter when done: {joints}")
            return done.is_set()

        bus = FeetechBus(port)
        try:
            calibration = lead(bus, SERVOS[arm], ask, report, arm, usb_serial(port))
        finally:
            bus.close()
    calibration.save(out)
    return f"saved to {out}; next: latent-mpc robot check --robot {arm} --port {port}"
