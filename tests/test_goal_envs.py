"""Goal tasks: what all of them promise, and the physics, rules and pictures of each."""

import sys
from typing import Any

import gymnasium
import numpy as np
import pytest

from envs import EnvConfig, RenderingUnavailable, make_env, select_gl_backend, spec_of
from envs.goals import TASKS, GoalSimulation
from envs.pixels import NUMBERS, SIZE, STACK

NEEDS = {"pointmaze": "gymnasium_robotics", "push": "pymunk"}  # by how the name of a task begins


def skip_without_package(task: str) -> None:
    for beginning, package in NEEDS.items():
        if task.startswith(beginning):
            pytest.importorskip(package, reason=f"goal/{task} needs it: telic[goals]")


def make(task: str, **options: Any) -> gymnasium.Env:
    skip_without_package(task)
    return make_env(EnvConfig(f"goal/{task}", **options))


def task_of(env: gymnasium.Env) -> GoalSimulation:
    native = env.unwrapped
    assert isinstance(native, GoalSimulation)
    return native


every_task = pytest.mark.parametrize("task", sorted(TASKS))


def pushes(seed: int, steps: int) -> np.ndarray:
    """Actions that are held for six control steps each, so that they lead somewhere."""
    rng = np.random.default_rng(seed)
    return np.repeat(rng.uniform(-1, 1, (steps // 6, 2)), 6, axis=0).astype(np.float32)


# What all of them promise


@every_task
def test_the_state_is_all_that_the_simulation_goes_on_from(task: str) -> None:
    env = make(task)
    native, actions = task_of(env), pushes(seed=1, steps=60)
    for seed in range(3):
        env.reset(seed=seed)
        states, seen = [native.state], []
        for action in actions:
            obs, _, _, _, info = env.step(action)
            states.append(info["state"])
            seen.append(obs)
        assert not np.allclose(states[0], states[-1], atol=0.05), "something moves"
        for begin in (0, 17, 40):
            native.restore(np.full_like(states[0], 7.0))  # nothing is left over from elsewhere
            native.restore(states[begin])
            for action, state, obs in zip(
                actions[begin:], states[begin + 1 :], seen[begin:], strict=True
            ):
                again, *_ = env.step(action)
                assert np.allclose(native.state, state, rtol=0, atol=1e-9)
                assert np.allclose(again, obs, rtol=0, atol=1e-6)
    env.close()


@every_task
def test_episodes_begin_away_from_a_goal_that_is_an_observation(task: str) -> None:
    env = make(task)
    native, spec = task_of(env), spec_of(env)
    rng = np.random.default_rng(0)
    for seed in range(10):
        obs, info = env.reset(seed=seed)
        assert not info["success"] and info["goal"].shape == obs.shape == (spec.obs_dim,)
        assert np.array_equal(info["state"], native.state)
        assert np.array_equal(native.restore(native.goal), info["goal"])
        assert native.success and native.reached(native.goal, native.goal)
        assert not native.reached(*native.draw_pair(rng))
        assert native.restore(native.draw_state(rng)).shape == obs.shape
    assert len(native.obs_names) == spec.obs_dim
    env.close()


@every_task
def test_what_does_not_matter_in_a_goal_is_not_in_its_rule(task: str) -> None:
    env = make(task)
    native, spec = task_of(env), spec_of(env)
    assert spec.goal_dim < spec.obs_dim
    rng = np.random.default_rng(0)
    for seed in range(5):
        _, info = env.reset(seed=seed)
        seen = info["goal"].copy()
        if spec.goal_dim:
            seen[spec.goal_dim :] += rng.normal(size=spec.obs_dim - spec.goal_dim)
        assert native.reached(native.state_of(seen), native.goal)
    env.close()


def test_pictures_of_goals_matter_as_a_whole() -> None:
    assert spec_of(make("push-t")).goal_dim == 8
    assert spec_of(make("push-t", obs="pixels")).goal_dim == 0


@every_task
def test_states_may_be_given(task: str) -> None:
    env = make(task)
    native, rng = task_of(env), np.random.default_rng(0)
    start, goal = native.draw_state(rng), native.draw_state(rng)
    _, info = env.reset(seed=0, options={"state": start, "goal": goal})
    assert np.array_equal(native.state, start) and np.array_equal(native.goal, goal)
    assert np.array_equal(info["goal"], native.restore(goal))
    assert info["success"] == native.reached(start, goal)
    _, info = env.reset(seed=0, options={"state": goal, "goal": goal})
    assert info["success"] and np.array_equal(native.state, native.goal)
    _, reward, terminated, truncated, info = env.step(np.zeros(2))
    assert reward == spec_of(env).action_repeat, "1 in every env frame"
    assert info["success"] and not terminated and not truncated
    env.close()


@every_task
def test_scripts_depend_on_their_generator_alone(task: str) -> None:
    env = make(task)
    native = task_of(env)
    try:
        native.script(np.random.default_rng(0))
    except ValueError as error:
        assert str(error) == "this task has no scripted policy; use policy=smooth-random"
        return
    runs = []
    for seed in (4, 4, 5):
        rng = np.random.default_rng(seed)
        native.restore(native.draw_state(rng))
        act, actions = native.script(rng), []
        for _ in range(40):
            actions.append(act())
            assert actions[-1].shape == (2,) and actions[-1].dtype == np.float32
            assert np.abs(actions[-1]).max() <= 1
            native.advance(actions[-1] * native.action_space.high)
        runs.append(np.array(actions))
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'goal/push-t'"):
        make_env("goal/pusht")


@pytest.mark.parametrize(
    ("task", "module", "package"),
    [
        ("push-t", "envs.push_t", "pymunk"),
        ("pointmaze-umaze", "envs.point_maze", "gymnasium_robotics"),
    ],
)
def test_a_missing_package_is_named_in_one_line(
    task: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match="goals") as caught:
        make_env(f"goal/{task}")
    expected = f"goal/{task} needs the Python package {package!r}: pip install 'telic[goals]'"
    assert str(caught.value) == expected


# Push-T


def push_t() -> GoalSimulation:
    return task_of(make("push-t"))


def test_push_t_moves_as_the_package_does() -> None:
    """The numbers are those of gym-pusht 0.1.8 with pymunk 6.11.1 from the same state."""
    task = push_t()
    task.restore(np.array([100.0, 260.0, 0, 0, 220.0, 220.0, 0.3, 0, 0, 0]))
    for step in range(18):
        if step < 10:
            task.advance(np.array([0.5, 0.1]))
        else:
            task.advance(np.array([-0.2, 0.6] if step < 16 else [-0.4, -0.3]))
    package = np.array([226.501, 426.088, 299.411, 219.797, -0.3831])
    ours = task.state[[0, 1, 4, 5, 6]]
    assert np.allclose(ours[:2], package[:2], atol=1e-3)  # the agent, which nothing stops
    assert np.allclose(ours[2:4], package[2:4], atol=0.5)  # contacts are not remembered
    assert ours[4] == pytest.approx(package[4], abs=0.01)


def test_push_t_is_reached_within_20_px_and_20_degrees() -> None:
    task = push_t()
    goal = np.array([100.0, 100, 300, -200, 250, 250, 3.0, 1, 1, 1])
    for moved, reached in [
        ({0: 19.9}, True),
        ({0: 20.1}, False),
        ({4: -19.9}, True),
        ({4: 12.0, 0: 12.0, 5: 12.0}, False),  # 20.8 px over the four numbers
        ({4: 11.0, 0: 11.0, 5: 11.0}, True),
        ({6: np.pi / 9 - 0.01}, True),
        ({6: np.pi / 9 + 0.01}, False),
        ({6: 0.3 - 2 * np.pi}, True),
        ({6: np.pi}, False),
        ({2: 400.0, 3: 400.0, 7: 50.0, 9: 9.0}, True),  # velocities do not matter
    ]:
        state = goal.copy()
        for number, by in moved.items():
            state[number] += by
        assert task.reached(state, goal) is reached, moved
        assert task.reached(goal, state) is reached, moved


def test_push_t_shows_the_agent_as_the_block_sees_it() -> None:
    from envs.push_t import WINDOW, in_window

    task, seen = push_t(), np.array([-40.0, 25.0])
    for block in ([200.0, 300.0, 0.0], [310.0, 150.0, 2.0]):
        state = np.array([0, 0, 0, 0, *block, 0, 0, 0])
        state[:2] = in_window(state, seen)
        assert task.restore(state)[6:8] == pytest.approx(seen / (WINDOW / 2))


def test_goals_of_push_t_take_pushing() -> None:
    from envs.push_t import PUSHED, TURNED, apart, block_corners

    task = push_t()
    for seed in range(10):
        start, goal = task.draw_pair(np.random.default_rng(seed))
        moved, turned = apart(start, goal)
        assert moved > PUSHED or turned > TURNED
        for state in (start, goal):
            assert (block_corners(state) > 0).all() and (block_corners(state) < 512).all()


def test_the_script_of_push_t_moves_the_block() -> None:
    from envs.push_t import apart

    task, rng = push_t(), np.random.default_rng(0)
    moved, turned = [], []
    for _ in range(12):
        start = task.draw_state(rng)
        task.restore(start)
        act = task.script(rng)
        for _ in range(100):
            task.advance(act())
        block, angle = apart(start, task.state)
        moved.append(block)
        turned.append(angle)
    assert np.mean(np.array(moved) > 20) > 0.8
    assert np.median(moved) > 80 and np.median(turned) > np.radians(20)


def test_a_block_pressed_against_a_wall_stays_on_the_table() -> None:
    """Nothing stops the agent, so that thin walls let the block through."""
    from envs.push_t import block_corners

    task = push_t()
    for block_x, push in [(330.0, 1.0), (182.0, -1.0)]:
        task.restore(np.array([256.0, 256, 0, 0, block_x, 211.0, 0, 0, 0, 0]))
        for _ in range(20):
            task.advance(np.array([push, 0.0]))
        for action in [*pushes(seed=2, steps=30), *[np.zeros(2)] * 20]:
            task.advance(action)
        assert (block_corners(task.state).mean((0, 1)) > 7).all()
        assert (block_corners(task.state).mean((0, 1)) < 504).all()


# Two rooms


def test_nothing_gets_through_the_walls_of_two_rooms() -> None:
    from envs.two_rooms import DOOR, HALF_DOOR, HIGH, LOW, MIDDLE, WALLS

    task, rng = task_of(make("two-rooms")), np.random.default_rng(0)
    axes = np.array([[9.0, 0], [-9, 0], [0, 9], [0, -9]])
    crossed = 0
    for step in range(20_000):
        if step % 60 == 0:
            task.restore(task.draw_state(rng))
        before = task.state
        task.advance(axes[rng.integers(4)] if rng.random() < 0.2 else rng.uniform(-3, 3, 2))
        after = task.state
        assert np.linalg.norm(after - before) <= 2.45 + 1e-9
        assert (after >= LOW).all() and (after <= HIGH).all()
        assert not any(((low < after) & (after < high)).all() for low, high in WALLS)
        if (before[0] < MIDDLE) != (after[0] < MIDDLE):
            part = (MIDDLE - before[0]) / (after[0] - before[0])
            assert abs(before[1] + part * (after[1] - before[1]) - DOOR) <= HALF_DOOR
            crossed += 1
    assert crossed > 10


@pytest.mark.parametrize(
    ("start", "way", "end"),
    [
        ((20.0, 30.0), (2.0, 1.0), (22.0, 31.0)),
        ((20.0, 30.0), (30.0, 40.0), (20 + 0.6 * 2.45, 30 + 0.8 * 2.45)),  # of length 2.45
        ((29.5, 30.0), (2.0, 1.0), (30.5, 30.5)),  # stopped half way
        ((30.5, 30.0), (2.0, 1.0), (30.5, 30.0)),  # held by the wall
        ((30.5, 30.0), (0.0, 1.0), (30.5, 31.0)),  # along it
        ((30.5, 30.0), (-1.0, 1.0), (29.5, 31.0)),  # and away
        ((32.0, 13.0), (0.0, 2.0), (32.0, 14.0)),  # in the door
        ((30.0, 10.0), (2.4, 0.0), (32.4, 10.0)),
        ((6.0, 59.0), (0.0, 2.0), (6.0, 60.0)),
        ((6.0, 30.0), (-2.0, 1.0), (5.0, 30.5)),
    ],
)
def test_a_step_in_two_rooms_ends_at_the_wall(
    start: tuple[float, float], way: tuple[float, float], end: tuple[float, float]
) -> None:
    task = task_of(make("two-rooms"))
    task.restore(np.array(start))
    obs = task.advance(np.array(way))
    assert np.allclose(task.state, end, rtol=0, atol=1e-12)
    assert np.allclose(obs, np.array(end) / 32.5 - 1)


def test_goals_in_two_rooms_are_in_the_other_room() -> None:
    from envs.two_rooms import MIDDLE

    task, rng = task_of(make("two-rooms")), np.random.default_rng(0)
    sides = [[place[0] > MIDDLE for place in task.draw_pair(rng)] for _ in range(50)]
    assert all(start != goal for start, goal in sides)
    assert 10 < sum(start for start, _ in sides) < 40
    goal = np.array([20.0, 20.0])
    assert task.reached(np.add(goal, [2.7, 3.55]), goal) and not task.reached(
        np.add(goal, [2.7, 3.65]), goal
    )


def test_the_script_of_two_rooms_goes_through_the_door_and_against_the_wall() -> None:
    from envs.two_rooms import LEFT, MIDDLE, RIGHT, STRIDE

    task, rng = task_of(make("two-rooms")), np.random.default_rng(0)
    crossed, at_wall = [], []
    for _ in range(40):
        task.restore(task.draw_state(rng))
        act, places = task.script(rng), []
        for _ in range(100):
            task.advance(STRIDE * act())
            places.append(task.state[0])
        crossed.append(len({place > MIDDLE for place in places}) == 2)
        at_wall.append(np.isin(places, (LEFT, RIGHT)).mean())
    assert np.mean(crossed) > 0.6 and 0.1 < np.mean(at_wall) < 0.3


# Reacher and PointMaze


def test_the_reacher_moves_as_in_dm_control() -> None:
    from envs.dmc import dm_suite

    task, rng = task_of(make("reacher")), np.random.default_rng(0)
    physics = dm_suite().load("reacher", "easy", task_kwargs={"random": 0}).physics
    start = task.draw_state(rng)
    start[2:] = 3.0, -9.0  # into the stop of the wrist
    task.restore(start)
    with physics.reset_context():
        physics.data.qpos[:], physics.data.qvel[:] = start[:2], start[2:]
    for action in pushes(seed=0, steps=60):
        obs = task.advance(action)
        physics.set_control(action)
        physics.step()
        assert np.allclose(task.state, [*physics.data.qpos, *physics.data.qvel], atol=1e-6)
        shoulder, wrist = physics.data.qpos
        seen = [np.sin(shoulder), np.cos(shoulder), wrist, *physics.data.qvel]
        assert np.allclose(obs, seen, atol=1e-5)


def test_a_pose_is_reached_within_a_twentieth_rad_on_the_circle() -> None:
    task = task_of(make("reacher"))
    goal = np.array([3.1, 2.0, 0.0, 0.0])
    for shoulder, wrist, reached in [
        (0.049, -0.049, True),
        (0.051, 0.0, False),
        (0.0, 0.051, False),
        (0.04 - 4 * np.pi, 0.0, True),
        (np.pi, 0.0, False),
    ]:
        assert task.reached(np.add(goal, [shoulder, wrist, 9.0, 9.0]), goal) is reached


@pytest.mark.parametrize("size", ["umaze", "large"])
def test_the_ball_stays_in_the_cells_of_its_maze(size: str) -> None:
    """In no step it gets into a wall, or past one: cells that follow each other are neighbours."""
    env = make(f"pointmaze-{size}")
    task: Any = task_of(env)
    rng, maze, passed = np.random.default_rng(0), task.maze_env.maze, 0
    for _ in range(6):
        state = task.draw_state(rng)
        state[2:] = rng.uniform(-5, 5, 2)
        task.restore(state)
        cell = maze.cell_xy_to_rowcol(state[:2])
        for action in np.sign(pushes(seed=int(rng.integers(99)), steps=90)):
            task.advance(action)
            now = maze.cell_xy_to_rowcol(task.state[:2])
            assert tuple(now) in task.cells
            assert np.abs(now - cell).sum() <= 1
            passed += not np.array_equal(now, cell)
            cell = now
    assert passed > 5
    goal = np.array([1.0, 1.0, 0.0, 0.0])
    assert task.reached(np.add(goal, [0.27, 0.35, 9, 9]), goal)
    assert not task.reached(np.add(goal, [0.28, 0.36, 0, 0]), goal)
    env.close()


# Pictures


def pictures_of(task: str, render: bool = False) -> gymnasium.Env:
    skip_without_package(task)
    if task.startswith(("pointmaze", "reacher")):
        try:
            select_gl_backend()
        except RenderingUnavailable as error:
            pytest.skip(str(error))
    return make_env(EnvConfig(f"goal/{task}", obs="pixels"), render=render)


@every_task
def test_goals_are_pictures_of_the_goal_and_pictures_do_not_tell_it(task: str) -> None:
    env = pictures_of(task, render=True)
    native = task_of(env)
    obs, info = env.reset(seed=3)
    goal = info["goal"]
    assert goal.dtype == obs.dtype == np.uint8
    assert goal.shape == obs.shape == (STACK * NUMBERS,)
    assert np.array_equal(goal, np.tile(goal[:NUMBERS], STACK))
    assert np.array_equal(native.state, info["state"]), "drawing the goal leaves the start alone"
    start, wanted = native.state, native.goal
    env.render()  # which marks the goal for people
    there, swapped = env.reset(seed=3, options={"state": wanted, "goal": start})
    assert np.array_equal(there, goal) and np.array_equal(swapped["goal"], obs)
    elsewhere, _ = env.reset(seed=4, options={"state": start})
    assert np.array_equal(elsewhere, obs), "whatever the goal is"
    differing = np.abs(obs[:NUMBERS].astype(int) - goal[:NUMBERS]).reshape(3, -1).max(0) > 20
    assert 3 < differing.sum() < SIZE * SIZE / 4, "start and goal are to be told apart"
    for _ in range(5):
        stepped = env.step(np.ones(2, np.float32))[0]
    again, _ = env.reset(options={"state": native.state})
    assert np.array_equal(stepped[-NUMBERS:], again[-NUMBERS:]), "a picture shows the state"
    env.close()


@every_task
def test_people_are_shown_the_goal(task: str) -> None:
    env = pictures_of(task, render=True)
    native = task_of(env)
    env.reset(seed=3)
    picture, start = env.render(), native.state
    assert isinstance(picture, np.ndarray)
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[-1] == 3
    env.reset(seed=4, options={"state": start})
    assert not np.array_equal(picture, env.render())
    env.close()
