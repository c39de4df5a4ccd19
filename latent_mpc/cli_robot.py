"""The commands that touch an arm: `latent-mpc drive | replay | goal capture | robot check | calibrate | play`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latent_mpc.cli_support import Seed, Weights, reported

goal = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Goal images.")
robot = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Check and calibrate an arm, and let it play.")

Size = Annotated[int, typer.Option(min=16, metavar="PX", help="Side in pixels, as the model wants it.")]
Robot = Annotated[
    str, typer.Option(metavar="NAME", help="mujoco (a simulated Panda), so101, or a driver: ur, franka, trossen, …")
]
Port = Annotated[str | None, typer.Option(metavar="DEVICE", help="Serial port of an SO-101, such as /dev/ttyACM0.")]
CameraSource = Annotated[
    str | None, typer.Option(metavar="INDEX|URL", help="Camera of a real arm: 0 for the first, or a stream's address.")
]
Calibration = Annotated[Path, typer.Option(metavar="FILE.yaml", help="Calibration of an SO-101.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Option of the driver, such as host=192.168.1.10; may be repeated."
    ),
]
Workspace = Annotated[
    Path | None,
    typer.Option(metavar="FILE.yaml", help="Where a real arm's tool may go; an example is in `drive --help`."),
]
SO101_FILE = Path("calibration/so101.yaml")


def drive(
    robot: Robot = "mujoco",
    goal: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Goal image from the same camera; simulated arms have one.")
    ] = None,
    port: Port = None,
    camera: CameraSource = None,
    calibration: Calibration = SO101_FILE,
    workspace: Workspace = None,
    options: Set = None,
    task: Annotated[
        str, typer.Option(metavar="TASK", help="Scene of the simulated arm: PickPlace, Reach.")
    ] = "PickPlace",
    weights: Weights = "panda-tabletop",
    seconds: Annotated[float, typer.Option(min=1, metavar="S", help="Stop the arm after so long.")] = 60.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan and show; never arm, send nothing.")] = False,
    page: Annotated[bool, typer.Option(help="Live page on this machine, with HOLD, STOP, RESET, ARM.")] = False,
    log: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the run's log, for `replay`.")] = None,
    seed: Seed = 0,
) -> None:
    """Drive an arm to a goal image, in real time.

    Planner, controller (100 Hz) and device run in processes of their own. Ctrl-C stops the arm, then its torque is
    off. Whatever is late or wrong holds the arm: HOLD, after a second of that STOPPED, or FAULT; with --page the drive
    then waits for RESET and ARM. A real arm needs --camera, --goal and --workspace, a file such as

    \b
        low_m: [0.12, -0.15, 0.01]   # metres from the middle of the base,
        high_m: [0.30, 0.15, 0.25]   # x forward, z up
        table_m: 0.0                 # height of the table
        speed_m_s: 0.2

    No physical arm was ever driven with this, and it is no safety-rated system: keep an emergency stop at hand.

    \b
    Example:
        latent-mpc drive --seed 3 --page
        latent-mpc drive --robot so101 --port /dev/ttyACM0 --camera 0 \\
            --goal goal.png --workspace workspace.yaml --weights runs/model --dry-run
    """
    with reported(log):
        from latent_mpc.drive import DriveConfig, drive_and_show
        from latent_mpc.stations import RobotChoice, open_station

        choice = RobotChoice(robot, port, camera, calibration, workspace, tuple(options or ()))
        with open_station(choice, weights, goal, task, seed) as station:
            settings = DriveConfig(weights=weights, seed=seed, seconds=seconds, dry_run=dry_run, log=log)
            typer.echo(drive_and_show(station, settings, page=page))


def replay(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folder that `drive --log` wrote.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the pictures; by default RUN.")] = None,
    lerobot: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Instead write the RUNs as one LeRobot dataset (v3.0) into a new folder."),
    ] = None,
) -> None:
    """Show what happened in a run, or hand runs on to LeRobot.

    Its phases and events as text, joints and timing as a picture, and what the camera saw as a video. With --lerobot
    a dataset of joints, what was sent and frames, an episode a run; joints in degrees, the gripper from 0 to 100.

    \b
    Example:
        latent-mpc drive --log runs/monday && latent-mpc replay runs/monday
        latent-mpc replay runs/monday runs/tuesday --lerobot datasets/week
    """
    with reported(lerobot or out or runs[0]):
        from latent_mpc.types import InvalidInputError

        if lerobot is not None:
            from latent_mpc.lerobot_dataset import export

            typer.echo(export(runs, lerobot))
            return
        if len(runs) > 1:
            raise InvalidInputError(f"one RUN at a time is shown, got {len(runs)}; several go with --lerobot")
        from latent_mpc.replay import replay as show

        typer.echo(show(runs[0], out or runs[0]))


@goal.command()
def capture(
    out: Annotated[Path, typer.Option(metavar="FILE.png", help="Where to save it.")] = Path("goal.png"),
    camera: CameraSource = "0",
    size: Size = 64,
    page: Annotated[
        bool, typer.Option(help="Live preview on this machine, port 8080, with a button; else at once.")
    ] = True,
) -> None:
    """Save a goal image from the camera.

    Arrange the scene as it shall be, move the arm home, look at the preview, press the button.

    \b
    Example:
        latent-mpc goal capture --camera 0 --out goal.png
    """
    with reported(out):
        from latent_mpc.stations import capture_goal

        typer.echo(capture_goal(camera or "0", out, size, page=page))


@robot.command()
def check(
    robot: Robot = "mujoco",
    port: Port = None,
    calibration: Calibration = SO101_FILE,
    options: Set = None,
    seconds: Annotated[float, typer.Option(min=0.5, metavar="S", help="How long to read.")] = 3.0,
    move: Annotated[bool, typer.Option("--move", help="Also nudge each joint by 3 degrees; asks before each.")] = False,
) -> None:
    """Check an arm without moving it.

    Readings a second, their age, joints against their limits; with --move the sign of each joint as well.

    \b
    Example:
        latent-mpc robot check --robot so101 --port /dev/ttyACM0
    """
    with reported(None):
        from latent_mpc.robot_check import check as run
        from latent_mpc.stations import RobotChoice

        ask = typer.confirm if move else None
        typer.echo(run(RobotChoice(robot, port, None, calibration, options=tuple(options or ())), seconds, ask))


@robot.command()
def calibrate(
    port: Annotated[str, typer.Option(metavar="DEVICE", help="Serial port, such as /dev/ttyACM0.")],
    out: Calibration = SO101_FILE,
    robot: Annotated[str, typer.Option(metavar="NAME", help="so101 or so100.")] = "so101",
) -> None:
    """Calibrate an SO-101 or SO-100: sweep every joint by hand, then its middle is set.

    The motors are limp meanwhile. Nothing is written into the servos before you agree.

    \b
    Example:
        latent-mpc robot calibrate --port /dev/ttyACM0
    """
    with reported(out):
        from latent_mpc.robot_check import calibrate as run

        typer.echo(run(port, out, typer.confirm, robot))


@robot.command()
def play(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the dataset; an interrupted one goes on.")],
    robot: Robot = "mujoco",
    port: Port = None,
    camera: CameraSource = None,
    calibration: Calibration = SO101_FILE,
    workspace: Workspace = None,
    options: Set = None,
    episodes: Annotated[int, typer.Option(min=1, metavar="N", help="Episodes that it shall hold in the end.")] = 200,
    length: Annotated[int, typer.Option(min=1, metavar="N", help="Actions an episode, 0.2 s each.")] = 50,
    step_m: Annotated[float, typer.Option(metavar="M", help="What an action of 1 means, in metres.")] = 0.06,
    size: Size = 64,
    seed: Seed = 0,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before a real arm moves.")] = False,
) -> None:
    """Let an arm move at random in its workspace, and record it as a play dataset for `pretrain` and `train`.

    It reaches, wiggles, pushes and grasps without knowing where anything is. Ctrl-C stops the arm and loses the episode
    under way; the same command goes on. Now and then put back what it has pushed out of its reach.

    \b
    Example:
        latent-mpc robot play --episodes 2 --out data/rehearsal
        latent-mpc robot play --robot so101 --port /dev/ttyACM0 --camera 0 --workspace workspace.yaml --out data/play
    """
    with reported(out):
        from latent_mpc.robot_play import RobotPlayConfig, record
        from latent_mpc.stations import SIMULATED, RobotChoice, open_stage

        choice = RobotChoice(robot, port, camera, calibration, workspace, tuple(options or ()))
        config = RobotPlayConfig(num_episodes=episodes, episode_length=length, step_m=step_m)
        with open_stage(choice, size, seed) as stage:
            if not (yes or choice.name == SIMULATED):
                typer.confirm(
                    "The arm will move by itself; is everybody away, and the emergency stop at hand?", abort=True
                )
            typer.echo(record(stage, config, name=choice.name, out=out, seed=seed))
