"""The command line: help without torch, errors as one line and an exit code, Ctrl-C and a full disk told."""

from __future__ import annotations

import errno
import functools
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from latent_mpc.cli import app
from latent_mpc.cli_support import is_disk_full
from latent_mpc.stations import read_workspace
from latent_mpc.types import InvalidInputError, UnknownNameError

COMMANDS = ["collect", "pretrain", "train", "attend", "baseline", "eval", "demo", "info", "bench planners"]
ROBOT_COMMANDS = ["drive", "replay", "goal capture", "robot check", "robot calibrate", "robot play"]


@dataclass(frozen=True)
class StubConfig:
    steps: int = 45
    noise: float = 0.1

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InvalidInputError(f"steps must be at least 1, got {self.steps}")


def invoke(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def stub_demo(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., object]], None]:
    """Replace what `latent-mpc demo` runs."""

    def replace(run: Callable[..., object]) -> None:
        module = ModuleType("latent_mpc.demo")
        vars(module).update(DemoConfig=StubConfig, run_demo=run)
        monkeypatch.setitem(sys.modules, "latent_mpc.demo", module)

    return replace


def raising(error: BaseException) -> Callable[..., object]:
    def run(*_: object, **__: object) -> object:
        raise error

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_and_the_common_options(command: str) -> None:
    result = invoke(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"Example:\n      latent-mpc {command}" in result.output
    for option in ("--config FILE.yaml", "--seed", "--device", "--out", "KEY=VALUE"):
        assert option in result.output


@pytest.mark.parametrize("command", ROBOT_COMMANDS)
def test_help_of_what_touches_an_arm_shows_an_example(command: str) -> None:
    result = invoke(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Example:\n      latent-mpc" in result.output and f"latent-mpc {command}" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("drive", "--robot", "kuka"), "unknown robot 'kuka'; available: .*'mujoco'.*'so101'"),
        (("drive", "--robot", "so101"), "an SO-101 needs --port"),
        (("drive", "--robot", "ur", "--set", "host"), "--set 'host' must be KEY=VALUE"),
        (("drive", "--robot", "ur", "--set", "host=127.0.0.1"), "robot 'ur' needs --camera and --workspace"),
        (("drive", "--goal", "missing.png"), "goal missing.png cannot be read as an image"),
        (("replay", "missing"), "missing"),
    ],
)
def test_what_cannot_be_driven_is_said_in_one_line(arguments: tuple[str, ...], message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert re.search(message, result.stderr) and "Traceback" not in result.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such file"),
        ("", "config key low_m has no default"),
        ("low_m: [0, 0, 0", "cannot be read as YAML"),
        ("low_m: [0, 0, 0]\nhigh: [1, 1, 1]", "unknown config key 'high'; available: low_m, high_m, table_m"),
        ("low_m: [0, 0]\nhigh_m: [1, 1, 1]", "low_m must be a list of 3"),
        ("low_m: [0, 0, 1]\nhigh_m: [1, 1, 0.5]", "must lie below"),
        ("low_m: [0, 0, 0]\nhigh_m: [1, 1, .inf]", "must be finite"),
        ("low_m: [0, 0, 0]\nhigh_m: [1, 1, 1]\nspeed_m_s: 0", "speed_m_s must be positive"),
        ("!!python/object/apply:os.mkdir [sprung]", "cannot be read as YAML"),
    ],
)
def test_a_workspace_that_is_none_is_told_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("workspace.yaml").write_text(text)
    iio.imwrite("goal.png", np.zeros((64, 64, 3), np.uint8))
    real = ("--robot", "ur", "--set", "host=127.0.0.1", "--camera", "0", "--goal", "goal.png")
    result = invoke("drive", *real, "--workspace", "workspace.yaml")
    assert result.exit_code == 2 and result.stderr.startswith("latent-mpc: workspace workspace.yaml: ")
    assert message in result.stderr and "`latent-mpc drive --help` shows an example" in result.stderr
    assert not Path("sprung").exists()


def test_the_example_of_a_workspace_is_one(tmp_path: Path) -> None:
    lines = [
        line.strip() for line in invoke("drive", "--help").output.splitlines() if "_m: " in line or "_m_s: " in line
    ]
    file = tmp_path / "workspace.yaml"
    file.write_text("\n".join(lines))
    assert read_workspace(file).high_m == (0.30, 0.15, 0.25)


def test_help_lists_the_commands_and_loads_neither_torch_nor_mujoco() -> None:
    code = (
        "import sys, latent_mpc.cli\n"
        "try: latent_mpc.cli.app(['--help'])\n"
        "finally: print(sorted({'torch', 'mujoco', 'h5py', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    for command in COMMANDS:
        assert f"\n  {command.split()[0]} " in done.stdout


def test_a_command_passes_its_settings_on_and_prints_the_result(stub_demo: Callable[..., None], tmp_path: Path) -> None:
    seen: dict[str, object] = {}

    def run(config: StubConfig, **arguments: object) -> str:
        seen.update(arguments, config=config)
        return "success, 0.4 cm off"

    stub_demo(run)
    file = tmp_path / "c.yaml"
    file.write_text("demo: {steps: 10, noise: 0.2}\ncollect: {}\n")
    result = invoke("demo", "noise=0.3", "--config", file, "--seed", 3, "--device", "cpu", "--out", tmp_path)
    assert (result.exit_code, result.stdout) == (0, "success, 0.4 cm off\n")
    assert seen == {
        "config": StubConfig(steps=10, noise=0.3),
        "weights": "panda-tabletop",
        "out": tmp_path,
        "seed": 3,
        "device": "cpu",
    }


def test_show_config_prints_yaml_and_runs_nothing(stub_demo: Callable[..., None]) -> None:
    stub_demo(raising(AssertionError("ran")))
    result = invoke("demo", "steps=7", "--show-config")
    assert result.exit_code == 0 and yaml.safe_load(result.stdout) == {"steps": 7, "noise": 0.1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stepz=3"], "unknown config key 'stepz'; available: steps, noise"),
        (["steps=three"], "steps must be a whole number, got 'three'"),
        (["steps=0"], "steps must be at least 1"),
        (["steps"], "must be key=value"),
        (["--config", "no_such_name"], "'no_such_name'; available: ["),
        (["--device", "tpu"], "no device 'tpu' here; available: ['auto', 'cpu'"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(
    stub_demo: Callable[..., None], arguments: list[str], message: str
) -> None:
    stub_demo(raising(AssertionError("ran")))
    result = invoke("demo", *arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert message in result.stderr and "Traceback" not in result.stderr


def test_errors_of_the_work_itself_are_told_without_traceback(stub_demo: Callable[..., None]) -> None:
    stub_demo(raising(UnknownNameError("weights", "panda", ["panda-tabletop"])))
    result = invoke("demo")
    assert result.exit_code == 2
    assert result.stderr == "latent-mpc: unknown weights 'panda'; available: ['panda-tabletop']\n"


def test_a_bug_keeps_its_traceback(stub_demo: Callable[..., None]) -> None:
    stub_demo(raising(ZeroDivisionError("a bug")))
    assert isinstance(invoke("demo").exception, ZeroDivisionError)


def test_collect_refuses_a_gpu() -> None:
    module = ModuleType("latent_mpc.collect")
    vars(module).update(CollectConfig=StubConfig, collect=raising(AssertionError("ran")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "latent_mpc.collect", module)
        result = invoke("collect", "--device", "cuda")
    assert result.exit_code == 2 and "--device must be auto or cpu, got 'cuda'" in result.stderr


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "episode.mp4"),
        OSError("Can't write data (file write failed: errno = 28, error message = 'No space left on device')"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_named_with_what_was_kept(
    stub_demo: Callable[..., None], tmp_path: Path, error: Exception
) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(1_500_000))
    stub_demo(raising(error))
    result = invoke("demo", "--out", tmp_path)
    assert result.exit_code == 1
    assert "the disk is full" in result.stderr
    assert f"kept in {tmp_path}: 1 files, 1.5 MB" in result.stderr


def test_other_errors_are_not_taken_for_a_full_disk() -> None:
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))
    assert not is_disk_full(ValueError("device"))


def test_an_interrupt_may_bring_its_own_account(stub_demo: Callable[..., None]) -> None:
    stub_demo(raising(KeyboardInterrupt("12 episodes kept in data/play")))
    result = invoke("demo")
    assert (result.exit_code, result.stderr) == (130, "latent-mpc: interrupted; 12 episodes kept in data/play\n")


def test_ctrl_c_ends_a_real_process_with_130_and_says_what_is_kept(tmp_path: Path) -> None:
    code = f"""
import sys, time, types
from dataclasses import make_dataclass
def run(config, *, out, **_):
    (out / "part.bin").write_bytes(bytes(2_000_000))
    print("working", flush=True)
    time.sleep(60)
stub = types.ModuleType("latent_mpc.demo")
stub.DemoConfig, stub.run_demo = make_dataclass("C", []), run
sys.modules["latent_mpc.demo"] = stub
from latent_mpc.cli import main
sys.argv = ["latent-mpc", "demo", "--device", "cpu", "--out", {str(tmp_path)!r}]
main()
"""
    # A shell's background job ignores Ctrl-C, and its children inherit that: undo it, so that the test runs there too.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True, preexec_fn=heed)
    try:
        assert process.stdout is not None and process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert stderr == f"latent-mpc: interrupted; kept in {tmp_path}: 1 files, 2.0 MB\n"
