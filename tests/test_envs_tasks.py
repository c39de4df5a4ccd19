"""The tasks of several objects: what they draw, when they are done, that they can be done, and the shapes they need."""

from __future__ import annotations

from dataclasses import replace

import gymnasium
import mujoco
import numpy as np
import pytest

import latent_mpc  # noqa: F401  (registers the environments)
from latent_mpc.envs import scene
from latent_mpc.envs.play import PlayConfig, PlayPolicy, ScriptedExpert
from latent_mpc.envs.tabletop import DEFAULTS, TabletopConfig
from latent_mpc.envs.tasks import ROOM_M, Layout, Situation, in_tray, make_task
from latent_mpc.types import InvalidInputError


@pytest.fixture
def make():
    made = []

    def build(task, num_objects, **kwargs):
        config = replace(DEFAULTS[task], num_objects=num_objects, image_size=8, supersample=1)
        made.append(gymnasium.make(f"latent_mpc/{task}-v0", config=config, **kwargs))
        return made[-1]

    yield build
    for env in made:
        env.close()


def drawn(task: str, n: int, count: int = 100) -> list[Layout]:
    rng = np.random.default_rng(0)
    config = replace(DEFAULTS[task], num_objects=n)
    return [make_task(task).sample(rng, config, [0.02] * n, {}) for _ in range(count)]


def apart(places: np.ndarray) -> float:
    gaps = np.linalg.norm(places[:, None] - places[None], axis=-1)
    return float(gaps[~np.eye(len(places), dtype=bool)].min())


# ---- what is drawn ----


def test_rearrange_moves_all_and_no_two_wait_for_each_other():
    chains = 0
    for layout in drawn("Rearrange", 4):
        starts, goals = layout.object_poses[:, :2], layout.goal_poses[:, :2]
        assert layout.movers == (0, 1, 2, 3)
        assert min(apart(starts), apart(goals)) >= ROOM_M
        gaps = np.linalg.norm(goals[:, None] - starts[None], axis=-1)  # goal i, start j
        assert np.diag(gaps).min() >= 0.10
        waits = gaps < ROOM_M  # i waits for j to leave
        assert waits.sum() <= 1
        chains += int(waits.sum())
    assert 35 <= chains <= 65


def test_stack_shows_any_object_on_any_other():
    pairs = set()
    for layout in drawn("Stack", 3):
        (mover,) = layout.movers
        still = [i for i in range(3) if i != mover]
        np.testing.assert_array_equal(layout.goal_poses[still], layout.object_poses[still])
        below = [i for i in still if (layout.goal_poses[i, :2] == layout.goal_poses[mover, :2]).all()]
        assert len(below) == 1 and layout.goal_poses[mover, 2] == pytest.approx(0.06)
        assert np.linalg.norm(layout.goal_poses[mover, :3] - layout.object_poses[mover, :3]) >= 0.10
        pairs.add((mover, below[0]))
    assert len(pairs) == 6


def test_clear_table_starts_beside_the_tray_and_ends_in_it():
    for layout in drawn("ClearTable", 5):
        assert not in_tray(layout.object_poses[:, :3]).any() and in_tray(layout.goal_poses[:, :3]).all()
        assert layout.object_poses[:, 1].max() + 0.035 * np.sqrt(2) < scene.TRAY_LOW_M[1] - 0.004  # clear of the rim
        assert apart(layout.object_poses[:, :2]) >= ROOM_M and apart(layout.goal_poses[:, :2]) > 2 * 0.035
        assert np.linalg.norm(layout.object_poses[:, :3] - layout.goal_poses[:, :3], axis=1).min() >= 0.10


# ---- when it is done ----


class Story:
    """Tells a task what happened, without physics: `lay` puts objects down for two steps."""

    def __init__(self, name: str, object_poses, goal_poses, movers) -> None:
        object_poses, goal_poses = (np.column_stack([p, np.zeros(len(p))]) for p in (object_poses, goal_poses))
        self.layout = Layout(object_poses, goal_poses, np.zeros(4), np.zeros(4), movers)
        self.task, self.positions = make_task(name), object_poses[:, :3].copy()
        self.task.begin(self.situation())

    def situation(self, held: int | None = None, speed: float = 0.0) -> Situation:
        n = len(self.positions)
        touch = np.arange(n) == (-1 if held is None else held)
        return Situation(np.zeros(3), self.positions.copy(), np.full(n, speed), touch, touch, self.layout)

    def lift(self, i: int) -> None:
        self.positions[i, 2] += 0.05
        assert not self.task.update(self.situation(held=i))
        self.positions[i, 2] -= 0.05

    def lay(self, i: int, position, **situation) -> bool:
        self.positions[i] = position
        self.task.update(self.situation(**situation))
        return self.task.update(self.situation(**situation))


def test_clear_table_counts_what_was_lifted_released_and_rests_inside():
    inside = [[0.45, 0.12, 0.02], [0.5, 0.2, 0.02], [0.6, 0.1, 0.02]]
    story = Story("ClearTable", [[0.4, -0.1, 0.02], [0.5, -0.1, 0.02], [0.6, -0.1, 0.02]], inside, (0, 1, 2))
    assert not story.lay(0, inside[0])  # shoved over the rim
    assert story.task.placed.tolist() == [False] * 3
    for i in (0, 1):
        story.lift(i)
        assert not story.lay(i, inside[2 - i])  # at whatever place
    assert story.task.placed.tolist() == [True, True, False]
    story.lift(2)
    assert not story.lay(2, [0.6, 0.065, 0.02])  # on the rim
    assert not story.lay(2, inside[2], held=2)
    assert not story.lay(2, inside[2], speed=0.1)
    assert story.lay(2, inside[2])
    assert story.task.placed.all()


def test_stack_wants_the_right_height_and_the_lower_one_in_its_place():
    goal = [[0.5, 0.0, 0.06], [0.5, 0.0, 0.02], [0.6, 0.1, 0.02]]
    story = Story("Stack", [[0.4, 0.1, 0.02], *goal[1:]], goal, (0,))
    story.lift(0)
    assert not story.lay(0, [0.5, 0.02, 0.045])  # leans on it
    story.positions[1, 0] += 0.04
    assert not story.lay(0, goal[0])
    story.positions[1] = goal[1]
    story.positions[2, 0] += 0.1  # no matter
    assert story.lay(0, goal[0])
    assert story.task.placed.tolist() == [True, True, False]


def test_rearrange_is_done_when_the_last_object_is_placed_and_the_first_still_lies_there():
    goal = [[0.4, 0.1, 0.02], [0.6, 0.1, 0.02]]
    story = Story("Rearrange", [[0.4, -0.1, 0.02], [0.6, -0.1, 0.02]], goal, (0, 1))
    story.lift(0)
    assert not story.lay(0, goal[0])
    assert story.task.placed.tolist() == [True, False]
    story.lift(1)
    story.positions[0, 0] += 0.05  # knocked away
    assert not story.lay(1, goal[1])
    assert story.lay(0, goal[0])


def test_time_limit_grows_with_the_objects(make):
    env = make("Rearrange", 3)
    env.reset(seed=0)
    steps = 0
    truncated = False
    while not truncated:
        *_, terminated, truncated, _ = env.step(np.zeros(5, np.float32))
        steps += 1
        assert not terminated
    assert steps == 3 * 45


# ---- that it can be done ----


def solved(make, task: str, n: int, seeds: range) -> int:
    env = make(task, n)
    expert = ScriptedExpert(env.unwrapped)
    wins = 0
    for seed in seeds:
        env.reset(seed=seed)
        expert.reset()
        done = False
        while not done:
            *_, terminated, truncated, info = env.step(expert.act())
            done = terminated or truncated
        assert info["is_success"] == terminated == (info["share_placed"] == 1)
        wins += terminated
    return wins


@pytest.mark.parametrize(("task", "n"), [("Rearrange", 4), ("Stack", 3), ("ClearTable", 5)])
def test_expert_solves_the_task(task, n, make):
    assert solved(make, task, n, range(2)) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "n"),
    [("Rearrange", 2), ("Rearrange", 4), ("Stack", 2), ("Stack", 4), ("ClearTable", 3), ("ClearTable", 5)],
)
def test_expert_solves_nearly_always(task, n, make):
    assert solved(make, task, n, range(100, 140)) >= 38


# ---- what cannot be done ----


@pytest.mark.parametrize(
    ("task", "kwargs", "message"),
    [
        ("Rearrange", {"num_objects": 1}, "2 to 4 objects"),
        ("ClearTable", {"num_objects": 6}, "3 to 5 objects"),
        ("Stack", {"config": TabletopConfig(num_objects=2, shapes=("cube", "sphere"))}, r"\['sphere'\].*cylinder"),
    ],
)
def test_objects_that_the_task_cannot_do_with(task, kwargs, message):
    with pytest.raises(InvalidInputError, match=message):
        gymnasium.make(f"latent_mpc/{task}-v0", **kwargs)


def test_a_start_in_the_tray_is_refused_but_in_play(make):
    env = make("ClearTable", 3)
    poses = [[0.5, 0.15, 0.02, 0], [0.4, -0.1, 0.02, 0], [0.6, -0.1, 0.02, 0]]
    with pytest.raises(InvalidInputError, match="starts in the tray"):
        env.reset(options={"object_poses": poses})
    in_play = [
        in_tray(env.reset(seed=s, options={"goal_image": False})[1]["object_positions"]).sum() for s in range(12)
    ]
    assert min(in_play) < 2 <= max(in_play)


# ---- play ----


def test_play_stacks_and_fills_the_tray(make):
    env = make("ClearTable", 3).unwrapped
    config = PlayConfig(onto=0.3)
    carried = stacked = 0
    for seed in range(6):
        env.reset(seed=seed)  # with a goal, so that all start beside the tray
        play = PlayPolicy(env, np.random.default_rng(seed), config)
        for _ in range(50):
            env.step(play.act())
            held, inside = env.grasped(), in_tray(env.object_positions())
            carried += int((inside & ~held).any())
            stacked += any(play._hands.floor_under(i) > 0.012 and not held[i] for i in range(3))
    assert carried > 10 and stacked > 3


# ---- shapes ----


def shaped(*specs: scene.ObjectSpec) -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = scene.build_model(len(specs), 0.004, num_parts=scene.most_parts(scene.SHAPES + scene.UNSEEN_SHAPES))
    data = mujoco.MjData(model)
    for i, spec in enumerate(specs):
        scene.set_object(model, i, spec)
    mujoco.mj_setConst(model, data)
    return model, data


def put(model: mujoco.MjModel, data: mujoco.MjData, index: int, position) -> None:
    address = int(model.joint(f"object{index}").qposadr[0])
    data.qpos[address : address + 7] = *position, 1, 0, 0, 0


@pytest.mark.parametrize("shape", scene.SHAPES + scene.UNSEEN_SHAPES)
def test_an_edited_object_weighs_and_rests_as_a_compiled_one(shape):
    half = 0.02 if shape == "sphere" else 0.03
    spec = scene.ObjectSpec(shape, (0.02, 0.02, half), (1, 0, 0))
    model, data = shaped(spec)
    alone = mujoco.MjSpec()
    body = alone.worldbody.add_body(name="it")
    for part in scene.parts(spec):
        a, b, c = part.half_m
        size = [a, c, 0] if part.type == mujoco.mjtGeom.mjGEOM_CYLINDER else [a, b, c]
        quat = [np.cos(part.yaw_rad / 2), 0, 0, np.sin(part.yaw_rad / 2)]
        body.add_geom(type=part.type, size=size, pos=part.centre_m, quat=quat, density=scene.DENSITY)
    compiled = alone.compile()
    R = np.empty(9)
    mujoco.mju_quat2Mat(R, compiled.body("it").iquat)
    R, mass, offset = R.reshape(3, 3), compiled.body("it").mass[0], compiled.body("it").ipos
    inertia = R @ np.diag(compiled.body("it").inertia) @ R.T
    inertia += mass * (offset @ offset * np.eye(3) - np.outer(offset, offset))  # about the object's own centre
    edited = model.body("object0")
    assert edited.mass[0] == pytest.approx(mass, rel=1e-9)
    np.testing.assert_allclose(np.diag(edited.inertia), inertia, atol=1e-9 * inertia.max())
    put(model, data, 0, (0.5, 0.0, half + 0.005))
    mujoco.mj_step(model, data, nstep=300)
    np.testing.assert_allclose(data.body("object0").xpos, [0.5, 0.0, half], atol=5e-4)


def test_a_cup_is_hollow_and_stands_on_its_bottom():
    model, data = shaped(
        scene.ObjectSpec("cup", (0.03, 0.03, 0.03), (1, 0, 0)), scene.ObjectSpec("sphere", (0.012,) * 3, (0, 0, 1))
    )
    put(model, data, 0, (0.5, 0, 0.03))
    put(model, data, 1, (0.5, 0, 0.1))
    mujoco.mj_step(model, data, nstep=500)
    assert data.body("object1").xpos[2] == pytest.approx(0.004 + 0.012, abs=1e-3)
    assert data.ncon <= 6  # of the bottom with the table, and the ball
    data.qvel[int(model.joint("object1").dofadr[0])] = 0.3  # rolls against the wall, and stays
    mujoco.mj_step(model, data, nstep=250)
    assert np.linalg.norm(data.body("object1").xpos[:2] - data.body("object0").xpos[:2]) < 0.03 - 0.012


def test_nothing_is_left_of_the_former_shape():
    model, data = shaped(scene.ObjectSpec("cup", (0.035, 0.035, 0.035), (1, 0, 0)))
    scene.set_object(model, 0, scene.ObjectSpec("cube", (0.01,) * 3, (1, 0, 0)))
    mujoco.mj_setConst(model, data)
    put(model, data, 0, (0.5, 0, 0.01))
    mujoco.mj_step(model, data, nstep=250)
    assert data.body("object0").xpos[2] == pytest.approx(0.01, abs=5e-4)
    first = model.geom("object0").id
    assert set(data.contact.geom[: data.ncon].ravel()) == {model.geom("table").id, first}
    assert (model.geom_group[first + 1 : first + 9] >= 3).all()  # not drawn
