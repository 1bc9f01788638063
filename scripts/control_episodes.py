"""Episodes under control, for reward and towards goals: how they begin, what is seen of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.live import Live
from rich.text import Text

from agents import Memory, MPCAgent
from envs.goals import GoalTask
from mpc import Plan
from scripts.goal_tasks import draw_goals, goal_agent, goal_task
from scripts.loading import LoadedGoalRun, LoadedRun
from scripts.options import Options

AnyRun = LoadedRun | LoadedGoalRun


@dataclass
class Trace:
    """What was seen in one controlled episode."""

    obs: list[NDArray[np.float32]] = field(default_factory=list)  # (O,), one more than rewards
    actions: list[NDArray[np.float32]] = field(default_factory=list)  # (A,)
    rewards: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    planned: list[bool] = field(default_factory=list)  # whether the control step made a plan
    plans: list[Plan] = field(default_factory=list)
    frames: list[NDArray[np.uint8]] = field(default_factory=list)
    fallbacks: int = 0
    overruns: int = 0
    reached: bool = False  # the goal, of goal tasks

    @property
    def score(self) -> float:
        """Undiscounted return."""
        return float(sum(self.rewards))

    @property
    def decisions(self) -> list[float]:
        """Milliseconds of the control steps that made a plan; others carry out an earlier one."""
        return [ms for ms, made in zip(self.milliseconds, self.planned, strict=True) if made]

    def add(
        self,
        action: NDArray[np.float32],
        obs: NDArray[np.float32],
        reward: float,
        memory: Memory,
    ) -> None:
        """Append a control step and what it led to."""
        assert memory.plan is not None
        self.actions.append(action)
        self.obs.append(obs)
        self.rewards.append(reward)
        self.milliseconds.append(1000.0 * memory.seconds)
        self.planned.append(memory.age == 1)
        self.plans.append(memory.plan)

    def plan_step(self, wanted: int | None) -> int:
        """The control step whose plan is shown: `wanted`, or where the observation changes most."""
        if wanted is not None:
            return min(wanted, len(self.plans) - 1)
        seen = np.stack(self.obs).astype(np.float32)
        change = np.abs(np.diff(seen, axis=0)) / (seen.std(0) + 1e-6)
        # Not so late that what happened cannot be drawn beside the plan.
        last = max(1, len(change) - self.plans[0].actions.shape[1])
        return int(change.sum(1)[:last].argmax())


@dataclass(frozen=True)
class Start:
    """An episode that has begun."""

    seed: int
    obs: NDArray[np.float32]  # (O,)
    agent: MPCAgent
    options: dict[str, Any] | None = None  # of the reset
    task: GoalTask | None = None  # which holds the goal, of goal tasks
    goal: NDArray[np.float32] | None = None  # how the goal looks, (O,), of goal tasks


class RewardEpisodes:
    """Episodes of a run that was trained for reward."""

    def __init__(self, loaded: LoadedRun, name: str, options: Options) -> None:
        self._agent = loaded.make_agent(name, options)
        self.planner = self._agent.planner
        self.training = f"{loaded.trained.frames} env frames"

    def begin(self, env: gymnasium.Env[Any, Any], seed: int) -> Start:
        """Reset the environment."""
        return Start(seed, env.reset(seed=seed)[0], self._agent)

    def outcome(self, trace: Trace) -> str:
        """How it went, in words."""
        return f"return {trace.score:.1f} in {len(trace.rewards)} control steps"


class GoalEpisodes:
    """Episodes of a run that was trained for goals; each has a goal of its own."""

    def __init__(self, loaded: LoadedGoalRun, name: str, options: Options) -> None:
        """Raises ValueError if goals are to come from data that is not there, or has none."""
        self._loaded, self.planner = loaded, loaded.make_planner(name, options)
        self.training = f"{loaded.trained.updates} updates on {loaded.settings.data}"
        self._recorded = loaded.held_out()
        draw_goals(loaded.settings.goal, self._recorded, 1, 0)  # finds out now if there are none

    def begin(self, env: gymnasium.Env[Any, Any], seed: int) -> Start:
        """Reset the environment to a start, with a goal."""
        settings, model = self._loaded.settings, self._loaded.trained.model
        options = draw_goals(settings.goal, self._recorded, 1, seed)[0]
        obs, info = env.reset(seed=seed, options=options)
        agent = goal_agent(model, self.planner, settings.agent, settings.goal, info["goal"][None])
        return Start(seed, obs, agent, options, goal_task(env), info["goal"])

    def outcome(self, trace: Trace) -> str:
        """How it went, in words."""
        steps = len(trace.rewards)
        seconds = steps * self._loaded.spec.control_period
        word = "reached after" if trace.reached else "NOT reached in"
        return f"goal {word} {steps} control steps ({seconds:.2f} s)"


def episodes_of(loaded: AnyRun, name: str, options: Options) -> RewardEpisodes | GoalEpisodes:
    """Episodes of a run, planned by planner `name`."""
    if isinstance(loaded, LoadedGoalRun):
        return GoalEpisodes(loaded, name, options)
    return RewardEpisodes(loaded, name, options)


def control_episode(
    start: Start,
    env: gymnasium.Env[Any, Any],
    rendered: bool,
    device: torch.device,
    console: Console,
) -> Trace:
    """Control an episode to its end or its goal, under a line that shows return and latency."""
    trace, obs, over = Trace(), start.obs, False
    memory = start.agent.start(start.seed, device)
    trace.obs.append(obs)
    with Live(console=console, transient=True, refresh_per_second=4) as live:
        while not over:
            actions, memory = start.agent.act(obs[None], memory)
            obs, reward, terminated, truncated, info = env.step(actions[0])
            trace.reached = start.task is not None and bool(info["success"])
            over = terminated or truncated or trace.reached
            trace.add(actions[0], obs, float(reward), memory)
            if rendered:
                trace.frames.append(env.render())  # type: ignore[arg-type]
            live.update(
                Text(
                    f"step {len(trace.rewards)}  return {trace.score:.1f}  "
                    f"{trace.decisions[-1]:.1f} ms per decision"
                )
            )
    trace.fallbacks, trace.overruns = memory.fallbacks, memory.overruns
    return trace
