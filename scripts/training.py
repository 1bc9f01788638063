"""A training run: collect, learn, evaluate, save; interruptible and resumable at any step."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents import MPCAgent, run_episodes
from envs import EnvSpec, make_env, spec_of
from mpc import Reward
from scripts.agent_files import describe
from scripts.collector import Collector, RandomActions, episode_path, read_episode, write_episode
from scripts.metrics import MetricsLogger
from scripts.plots import Line, learning_curve
from scripts.reference import reference_curves
from scripts.run_folder import RunFolder
from scripts.settings import Settings, make_planner_from, resolve_device
from scripts.stopwatch import WHOLE, Stopwatch
from world_models import (
    METRICS,
    Checkpoint,
    CheckpointError,
    LatentModel,
    Replay,
    Trainer,
    discount_for,
    prune_checkpoints,
    save_checkpoint,
)

logger = logging.getLogger(__name__)

EVALUATION_SEED = 10_000_000  # of the first episode of every evaluation during training
TIME = "time/"  # metrics that start like this are wall-clock; all others repeat bit for bit


class TrainingRun:
    """All the state of a run. `advance` makes one control step; `save` can follow any of them."""

    def __init__(self, settings: Settings, folder: RunFolder) -> None:
        """Writes nothing. Raises ValueError or UsageError for settings that cannot be trained."""
        self.settings, self.folder = settings, folder
        self.device = resolve_device(settings.device)
        self.env = make_env(settings.env)
        self.spec = spec_of(self.env)
        require_trainable(settings, self.spec)
        self.eval_envs = [make_env(settings.env) for _ in range(settings.train.eval_episodes)]
        seed = settings.seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LatentModel(
                self.spec.obs_dim, self.spec.action_dim, settings.model, self.spec.choices
            )
        self.model = model.to(self.device)
        self.discount = discount_for(self.spec.episode_steps)
        self.trainer = Trainer(self.model, settings.loss, self.discount, seed)
        assert self.spec.episode_steps is not None
        needed = settings.train.frames // self.spec.action_repeat + self.spec.episode_steps
        self.replay = Replay(
            # Room for the rows at the end of every episode, and no more than the run can fill.
            min(settings.replay.capacity, (1 + settings.loss.horizon) * needed + 1),
            self.spec.obs_dim,
            self.spec.action_dim,
            settings.loss.horizon,
            seed,
        )
        self.random = RandomActions(model.action_space, seed)
        # Compiled code is made for one batch size: evaluation, which has another, runs eagerly.
        fast = settings.planner.compile is not False
        self.agent, self.evaluator = (
            MPCAgent(
                self.trainer.frozen,
                make_planner_from(replace(settings.planner, compile=compiled)),
                Reward(),
                self.discount,
                settings.agent,
            )
            for compiled in (fast, False)
        )
        self.memory = self.agent.start(seed, self.device)
        self.collector = Collector(self.env, seed)
        self.steps = 0  # control steps taken
        self.learning = False  # whether the first updates have been made
        self.plan_row: dict[str, float] = {}  # of the last plan before a resume
        self.stopwatch = Stopwatch()
        self.metrics: MetricsLogger | None = None

    @property
    def frames(self) -> int:
        """Env frames seen."""
        return self.steps * self.spec.action_repeat

    @property
    def finished(self) -> bool:
        """Whether all frames of the settings have been seen."""
        return self.frames >= self.settings.train.frames

    @property
    def progress(self) -> float:
        """Share of the frames of the settings that have been seen; rates and noise fall with it."""
        return self.frames / self.settings.train.frames

    def advance(self) -> dict[str, float]:
        """One control step with its updates; returns what is worth showing, often nothing."""
        losses = None
        with self.stopwatch.measure(WHOLE):
            if not self.learning and self._can_learn():
                self.learning = True
                self._update(self.settings.train.first_updates)
            shown = self._step()
            if self.learning:
                with self.stopwatch.measure("update"):
                    losses = self._update(self.settings.train.updates_per_step)
        if self.learning:
            self.stopwatch.count()
        if losses is not None and self.steps % self.settings.train.log_every == 0:
            shown |= self._losses(losses)
        if shown:
            self.log(shown)
        return shown

    def evaluate(self) -> dict[str, float]:
        """Episodes on fixed starts without exploration noise; logs and returns mean and spread."""
        started = time.perf_counter()
        seeds = [EVALUATION_SEED + i for i in range(len(self.eval_envs))]
        records = run_episodes(self.evaluator, self.eval_envs, seeds, device=str(self.device))
        scores = np.array([record.score for record in records])
        row = {"eval/return": float(scores.mean()), "eval/std": float(scores.std())}
        row[f"{TIME}evaluation_s"] = time.perf_counter() - started
        if self.metrics is not None:
            # Before the row is logged, because W&B shows a picture beside the row that follows.
            self._draw_learning_curve(self.metrics, row)
        self.log(row)
        return row

    @property
    def evaluation_due(self) -> bool:
        """Whether the settings ask for an evaluation after the last control step."""
        every = self.settings.train.eval_every
        due = self.finished or passed(every, self.frames, self.spec.action_repeat)
        return self.learning and due

    @property
    def checkpoint_due(self) -> bool:
        """Whether the settings ask for a checkpoint after the last control step."""
        every = self.settings.train.checkpoint_every
        return self.finished or passed(every, self.frames, self.spec.action_repeat)

    def log(self, row: dict[str, float]) -> None:
        """Write a row of metrics, where a logger is attached."""
        if self.metrics is not None:
            self.metrics.log(row, self.frames)

    def save(self) -> Path:
        """Write a checkpoint from which `restore` goes on exactly."""
        path = self.folder.checkpoints / f"{self.frames:09d}"
        first = self.replay.added - len(self.replay.spans)
        meta = {
            **describe(self.model, self.spec, self.discount),
            "frames": self.frames,
            "steps": self.steps,
            "learning": self.learning,
            "device": self.device.type,
            "first_episode": first,
            "planner": asdict(self.settings.planner),
            "plan_row": self._plan_row(),
        }
        tensors = {
            "model": self.model.state_dict(),
            "trainer": self.trainer.state(),
            "replay": self.replay.state(),
            "agent": self.memory.state(),
            "collector": self.collector.state(),
            "random": self.random.state(),
        }
        save_checkpoint(path, tensors, meta)
        prune_checkpoints(self.folder.checkpoints, self.settings.train.keep_checkpoints)
        self._remove_episodes(self._oldest_needed())
        return path

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on where `save` stopped; episodes written after that are removed.

        Raises CheckpointError for a checkpoint of another device, or without its episodes.
        """
        tensors, meta = checkpoint.tensors, checkpoint.meta
        if meta["device"] != self.device.type:
            raise CheckpointError(
                f"{self.folder.path} was trained on device {meta['device']} and cannot go on "
                f"on {self.device.type}; resume it with device={meta['device']}"
            )
        self.model.load_state_dict(tensors["model"])
        self.trainer.restore(tensors["trainer"])
        self.replay.restore(
            tensors["replay"], lambda index: read_episode(self.folder.episodes, index)
        )
        self.memory = type(self.memory).restore(tensors["agent"], self.device)
        self.random.restore(tensors["random"])
        self.steps, self.learning = meta["steps"], meta["learning"]
        self.plan_row = meta["plan_row"]
        if not self.collector.restore(tensors["collector"]):
            logger.warning("%s did not repeat the episode in progress", self.spec.name)
            self.memory = self.agent.forget(self.memory, np.array([True]))
        for path in self.folder.episodes.glob("*.safetensors"):
            if int(path.stem) >= self.replay.added:
                path.unlink()

    def close(self) -> None:
        """Close the environments."""
        for env in (self.env, *self.eval_envs):
            env.close()

    def _can_learn(self) -> bool:
        return self.steps >= self.settings.train.random_steps and self.replay.windows > 0

    def _step(self) -> dict[str, float]:
        """One control step of the environment; returns the facts of an episode that it ended."""
        with self.stopwatch.measure("decide"):
            action = self._act()
        with self.stopwatch.measure("environment"):
            episode = self.collector.step(action)
        self.steps += 1
        if episode is None:
            return {}
        self.replay.add(episode)
        write_episode(self.folder.episodes, self.collector.index, episode)
        self.memory = self.agent.forget(self.memory, np.array([True]))
        self.collector.begin()
        return {
            "train/return": float(episode.rewards.sum()),
            "train/episode_steps": float(episode.steps),
        }

    def _act(self) -> NDArray[np.float32]:
        if not self.learning:
            return self.random.act(self.collector.index)
        obs = self.collector.obs[-1][None]
        actions, self.memory = self.agent.act(obs, self.memory, self._exploration())
        action: NDArray[np.float32] = actions[0]
        return action

    def _exploration(self) -> float:
        """Share of the exploration noise at this control step."""
        cfg = self.settings.train
        if cfg.greedy_every and self.collector.index % cfg.greedy_every == 0:
            return 0.0
        return 1.0 - (1.0 - cfg.final_exploration) * min(1.0, 2 * self.progress)

    def _update(self, count: int) -> Tensor | None:
        """`count` updates of the model; returns the losses of the last one, (len(METRICS),)."""
        losses = None
        for _ in range(count):
            batch = self.replay.sample(self.settings.loss.batch_size)
            losses = self.trainer.update(batch, self.progress)
        return losses

    def _losses(self, losses: Tensor) -> dict[str, float]:
        row = {f"train/{n}": v for n, v in zip(METRICS, losses.tolist(), strict=True)}
        row["train/value_scale"] = float(self.trainer.scale)
        row["train/latent_spread"] = self.model.latent_spread()
        row |= self._plan_row()
        row["plan/fallbacks"] = float(self.memory.fallbacks)
        row["plan/overruns"] = float(self.memory.overruns)
        return row | {f"{TIME}{k}_ms": v for k, v in self.stopwatch.milliseconds().items()}

    def _plan_row(self) -> dict[str, float]:
        """Facts of the last plan, also when it was made before a resume."""
        plan = self.memory.plan
        if plan is None:
            return self.plan_row
        found, row = plan.diagnostics, {"plan/cost": float(plan.cost.mean())}
        row |= {f"plan/{name}": float(values[-1]) for name, values in found.trace.items()}
        if found.defect is not None:
            row["plan/final_defect"] = float(found.defect.mean())
        return row | {f"{TIME}plan_ms": 1000.0 * found.seconds}

    def _draw_learning_curve(self, metrics: MetricsLogger, row: dict[str, float]) -> None:
        """Redraw plots/learning_curve.png with the evaluation in `row` as its last point."""
        frames, means = metrics.column("eval/return")
        _, deviations = metrics.column("eval/std")
        x = np.array([*frames, self.frames])
        mean = np.array([*means, row["eval/return"]])
        deviation = np.array([*deviations, row["eval/std"]])
        path, name = self.folder.plots / "learning_curve.png", self.spec.name
        band = (mean - deviation).tolist(), (mean + deviation).tolist()
        line = Line("this run", x.tolist(), mean.tolist(), *band)
        learning_curve(path, [line], reference_curves(name), name)
        metrics.log_media("plots/learning_curve", path)

    def _oldest_needed(self) -> int:
        """First episode that any kept checkpoint refers to."""
        files = self.folder.checkpoints.glob("*/checkpoint.json")
        return min(json.loads(f.read_text())["meta"]["first_episode"] for f in files)

    def _remove_episodes(self, before: int) -> None:
        index = before - 1
        while index >= 0 and episode_path(self.folder.episodes, index).exists():
            episode_path(self.folder.episodes, index).unlink()
            index -= 1


def require_trainable(settings: Settings, spec: EnvSpec) -> None:
    """Raise ValueError unless episodes end, fit the replay, and hold a window to learn from."""
    if spec.episode_steps is None:
        raise ValueError(f"{spec.name} has no time limit; give it one, env.episode_frames=1000")
    # An episode of T control steps takes T + 1 rows, one that terminates T + loss.horizon.
    needed, capacity = spec.episode_steps + settings.loss.horizon, settings.replay.capacity
    if capacity < needed:
        raise ValueError(
            f"replay.capacity must be at least {needed} to hold an episode of "
            f"{spec.episode_steps} control steps, got {capacity}"
        )
    if settings.loss.horizon > spec.episode_steps:
        raise ValueError(
            f"loss.horizon must be at most the {spec.episode_steps} control steps of an episode, "
            f"got {settings.loss.horizon}"
        )


def passed(every: int, frames: int, repeat: int) -> bool:
    """Whether a multiple of `every` env frames lies in the last control step; never for 0."""
    return every > 0 and frames // every > (frames - repeat) // every


Progress = Callable[[TrainingRun, dict[str, float]], None]


def train(
    run: TrainingRun, progress: Progress, interrupted: Callable[[], bool] = lambda: False
) -> bool:
    """Advance `run` until it has finished or `interrupted()`; True if it has finished.

    Evaluates and saves on the way and at the end. `progress` hears of every control step.
    """
    if not run.steps:
        run.save()  # so that a run killed at any time can be resumed
    while not run.finished:
        if interrupted():
            run.save()
            return False
        shown = run.advance()
        if run.evaluation_due:
            shown = {**shown, **run.evaluate()}
        if run.checkpoint_due:
            run.save()
        progress(run, shown)
    return True
