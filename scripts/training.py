"""A training run: collect, learn, evaluate, save; interruptible and resumable at any step."""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents import MPCAgent, run_episodes
from envs import make_env, spec_of
from mpc import Reward
from scripts.agent_files import describe
from scripts.collector import Collector, RandomActions, episode_path, read_episode, write_episode
from scripts.metrics import MetricsLogger
from scripts.run_folder import RunFolder
from scripts.settings import Settings, make_planner_from, resolve_device
from world_models import (
    METRICS,
    Checkpoint,
    LatentModel,
    Replay,
    Trainer,
    discount_for,
    prune_checkpoints,
    save_checkpoint,
)

logger = logging.getLogger(__name__)

COMPONENTS = ("decide", "environment", "update")
EVALUATION_SEED = 10_000_000  # far above the seeds of training episodes of small run seeds


class Stopwatch:
    """Seconds by component of the control steps after the first few, which may compile."""

    def __init__(self, skip: int = 20) -> None:
        self.skip, self.steps = skip, 0
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, component: str) -> Any:
        """Add the time inside to `component`."""
        started = time.perf_counter()
        yield
        if self.steps > self.skip:
            self.seconds[component] += time.perf_counter() - started

    def milliseconds(self) -> dict[str, float]:
        """Mean milliseconds per control step by component."""
        counted = max(1, self.steps - self.skip)
        return {name: 1000.0 * self.seconds[name] / counted for name in COMPONENTS}


class TrainingRun:
    """All the state of a run. `advance` makes one control step; `save` can follow any of them."""

    def __init__(self, settings: Settings, folder: RunFolder) -> None:
        self.settings, self.folder = settings, folder
        self.device = resolve_device(settings.device)
        self.env = make_env(settings.env)
        self.eval_envs = [make_env(settings.env) for _ in range(settings.train.eval_episodes)]
        self.spec = spec_of(self.env)
        seed = settings.seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LatentModel(self.spec.obs_dim, self.spec.action_dim, settings.model)
        self.model = model.to(self.device)
        self.discount = discount_for(self.spec.episode_steps)
        self.trainer = Trainer(self.model, settings.loss, self.discount, seed)
        needed = settings.train.frames // self.spec.action_repeat + (self.spec.episode_steps or 0)
        self.replay = Replay(
            # Room for the last row of every episode, and no more than the run can fill.
            min(settings.replay.capacity, 2 * needed + 1),
            self.spec.obs_dim,
            self.spec.action_dim,
            settings.loss.horizon,
            seed,
        )
        self.random = RandomActions(self.spec.action_dim, seed)
        # Compiled code is made for one batch size: evaluation, which has another, runs eagerly.
        eager = make_planner_from(replace(settings.planner, compile=False))
        arguments = (Reward(), self.discount, settings.agent)
        self.agent = MPCAgent(self.trainer.frozen, make_planner_from(settings.planner), *arguments)
        self.evaluator = MPCAgent(self.trainer.frozen, eager, *arguments)
        self.memory = self.agent.start(seed, self.device)
        self.collector = Collector(self.env, seed)
        self.steps = 0  # control steps taken
        self.learning = False  # whether the first updates have been made
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

    def advance(self) -> dict[str, float]:
        """One control step with its updates; returns what is worth showing, often nothing."""
        train, shown = self.settings.train, {}
        if self.steps >= train.random_steps and self.replay.windows and not self.learning:
            self.learning = True
            for _ in range(train.first_updates):
                self.trainer.update(self.replay.sample(self.settings.loss.batch_size))
        with self.stopwatch.measure("decide"):
            action = self._act()
        with self.stopwatch.measure("environment"):
            episode = self.collector.step(action)
        self.steps += 1
        if episode is not None:
            self.replay.add(episode)
            write_episode(self.folder.episodes, self.collector.index, episode)
            shown["train/return"] = float(episode.rewards.sum())
            shown["train/episode_steps"] = float(episode.steps)
            self.memory = self.agent.forget(self.memory, np.array([True]))
            self.collector.begin()
        if self.learning:
            with self.stopwatch.measure("update"):
                for _ in range(train.updates_per_step):
                    batch = self.replay.sample(self.settings.loss.batch_size)
                    losses = self.trainer.update(batch)
            self.stopwatch.steps += 1
            if self.steps % train.log_every == 0 and train.updates_per_step:
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
        row["eval/seconds"] = time.perf_counter() - started
        self.log(row)
        return row

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
            "first_episode": first,
            "planner": asdict(self.settings.planner),
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
        """Go on where `save` stopped; what was written after that is forgotten."""
        tensors, meta = checkpoint.tensors, checkpoint.meta
        self.model.load_state_dict(tensors["model"])
        self.trainer.restore(tensors["trainer"])
        self.replay.restore(
            tensors["replay"], lambda index: read_episode(self.folder.episodes, index)
        )
        self.memory = type(self.memory).restore(tensors["agent"], self.device)
        self.random.restore(tensors["random"])
        self.steps, self.learning = meta["steps"], meta["learning"]
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

    def _act(self) -> Any:
        if not self.learning:
            return self.random.act(self.collector.index)
        obs = self.collector.obs[-1][None]
        actions, self.memory = self.agent.act(obs, self.memory, explore=True)
        return actions[0]

    def _losses(self, losses: torch.Tensor) -> dict[str, float]:
        row = {f"train/{n}": v for n, v in zip(METRICS, losses.tolist(), strict=True)}
        row["train/value_scale"] = float(self.trainer.scale)
        row["train/latent_spread"] = self.model.latent_spread()
        row |= {f"ms/{k}": v for k, v in self.stopwatch.milliseconds().items()}
        plan = self.memory.plan
        if plan is not None:
            row["plan/cost"] = float(plan.cost.mean())
            row["plan/seconds"] = plan.diagnostics.seconds
            row |= {f"plan/{k}": float(v[-1]) for k, v in plan.diagnostics.trace.items()}
            if plan.diagnostics.defect is not None:
                row["plan/final_defect"] = float(plan.diagnostics.defect.mean())
        row["plan/fallbacks"] = float(self.memory.fallbacks)
        return row

    def _oldest_needed(self) -> int:
        """First episode that any kept checkpoint refers to."""
        files = self.folder.checkpoints.glob("*/checkpoint.json")
        return min(json.loads(f.read_text())["meta"]["first_episode"] for f in files)

    def _remove_episodes(self, before: int) -> None:
        index = before - 1
        while index >= 0 and episode_path(self.folder.episodes, index).exists():
            episode_path(self.folder.episodes, index).unlink()
            index -= 1


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
    settings = run.settings.train
    repeat = run.spec.action_repeat
    while not run.finished:
        if interrupted():
            run.save()
            return False
        shown = run.advance()
        if run.learning and passed(settings.eval_every, run.frames, repeat):
            shown = {**shown, **run.evaluate()}
        if passed(settings.checkpoint_every, run.frames, repeat):
            run.save()
        progress(run, shown)
    run.save()
    return True
