"""A training run: collect, learn, evaluate, save; interruptible and resumable at any step."""

from __future__ import annotations

import copy
import json
import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents import MPCAgent, run_episodes
from envs import EnvSpec, make_env, spec_of
from mpc import Reward
from scripts.agent_files import describe, make_model
from scripts.collector import Collector, episode_path, read_episode, write_episode
from scripts.engines import AT_ONCE
from scripts.executors import Helper, Inline
from scripts.exploration import Exploration, RandomActions
from scripts.hardware import machine
from scripts.metrics import MetricsLogger
from scripts.plots import Line, learning_curve
from scripts.reference import published_return, reference_curves
from scripts.run_folder import RunFolder
from scripts.settings import Settings, make_planner_from, prepare_torch, resolve_device
from scripts.stopwatch import COMPONENTS, WHOLE, Stopwatch
from scripts.version import CODE
from world_models import (
    METRICS,
    Checkpoint,
    CheckpointError,
    Episode,
    PictureEncoder,
    Replay,
    Trainer,
    VectorEncoder,
    discount_for,
    prune_checkpoints,
    save_checkpoint,
)

logger = logging.getLogger(__name__)

EVALUATION_SEED = 10_000_000  # of the first episode of every evaluation during training
EXAMPLES = 256  # windows that an encoder is fitted to before the first update
TIME = "time/"  # metrics that start like this are wall-clock; all others repeat bit for bit


class TrainingRun:
    """All the state of a run. `advance` makes one control step; `save` can follow any of them."""

    unit = "env frames"
    axis = "frames"  # column of the metrics

    def __init__(self, settings: Settings, folder: RunFolder) -> None:
        """Writes nothing. Raises ValueError or UsageError for settings that cannot be trained."""
        self.settings, self.folder = settings, folder
        self.device = resolve_device(settings.device)
        self.spec = trainable_spec(settings)
        self.eval_envs = [make_env(settings.env) for _ in range(settings.train.eval_episodes)]
        self.discount = discount_for(self.spec.episode_steps)
        seed = settings.seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = make_model(self.spec, settings.model).to(self.device)
            torch.manual_seed(seed)  # what a trainer draws does not depend on the model's size
            self.trainer = Trainer(self.model, settings.loss, self.discount, seed)
        # What the agent acts with while the model learns: a copy of its own.
        acting = copy.deepcopy(self.trainer.frozen)
        self._acting = list(acting.state_dict().values())
        self._learned = list(self.model.state_dict().values())
        self.learner: Executor = Inline()
        self.helper = Helper()
        # CUDA graphs must not be recorded while another thread works on the same GPU.
        if settings.train.overlap is not False and self.device.type != "cuda":
            self.learner = ThreadPoolExecutor(1, "learner", prepare_torch, (settings.threads,))
            self.trainer.offer = self.helper.offer
        assert self.spec.episode_steps is not None
        self.limit, train = self.spec.episode_steps, settings.train  # control steps
        needed = train.frames // self.spec.frames + train.num_envs * self.limit
        self.replay = Replay(
            # Room for the rows at the end of every episode, and no more than the run can fill.
            min(settings.replay.capacity, (1 + settings.loss.horizon) * needed + 1),
            self.spec.obs_dim,
            self.spec.action_dim,
            settings.loss.horizon,
            seed,
            self.spec.pictures,
        )
        steps = train.episode_steps(self.limit, 0.0)
        self.exploration = Exploration(train, self.replay, steps, seed)
        self.random = RandomActions(self.model.action_space, train.num_envs, seed)
        # Compiled code is made for one batch size: evaluation, which has another, runs eagerly.
        fast = settings.planner.compile is not False
        self.agent, self.evaluator = (
            MPCAgent(
                weights,
                make_planner_from(replace(settings.planner, compile=compiled)),
                Reward(),
                self.discount,
                settings.agent,
            )
            for weights, compiled in ((acting, fast), (self.trainer.averaged, False))
        )
        self.memory = self.agent.start(seed, self.device)
        newest = self.spec.newest_dim
        self.collector = Collector(settings.env, newest, train.num_envs, seed, train.processes)
        self.steps = 0  # control steps taken, in all environments together
        self.learning = False  # whether the first updates have been made
        self.plan_row: dict[str, float] = {}  # of the last plan before a resume
        self.made_by: list[dict[str, Any]] = []  # code and machines that trained before a resume
        self.seconds = 0.0  # spent in `advance`: everything but evaluations and checkpoints
        self.stopwatch = Stopwatch()
        self.metrics: MetricsLogger | None = None

    @property
    def frames(self) -> int:
        """Env frames seen."""
        return self.steps * self.spec.frames

    @property
    def done(self) -> int:
        """Env frames seen."""
        return self.frames

    @property
    def finished(self) -> bool:
        """Whether all frames of the settings have been seen."""
        return self.frames >= self.settings.total

    @property
    def doing(self) -> str:
        """What is going on, for a progress bar."""
        if not self.learning:
            return "random actions"
        return "no reward yet" if self.exploration.unrewarded else "training"

    @property
    def progress(self) -> float:
        """Share of the frames of the settings that have been seen; rates and noise fall with it."""
        return self.frames / self.settings.train.frames

    @property
    def updates_per_step(self) -> int:
        """Updates per control step at this point."""
        train = self.settings.train
        early = self.progress < train.updates_fall_after
        return train.updates_per_step if early else min(1, train.updates_per_step)

    def advance(self) -> dict[str, float]:
        """One control step of every environment with its updates; what is worth showing of it."""
        losses, started, train = None, time.perf_counter(), self.settings.train
        count = len(self.collector.episodes)
        with self.stopwatch.measure(WHOLE):
            if not self.learning and self._can_learn():
                self.learning = True
                encoder = self.model.encoder
                if isinstance(encoder, PictureEncoder):
                    encoder.fit(self.replay.sample(EXAMPLES).obs[0].to(self.device))
                elif isinstance(encoder, VectorEncoder):
                    encoder.fit(self.replay.sample(EXAMPLES).obs.to(self.device))
                self.model.cover(max(-self.replay.least, self.replay.most))
                self.helper.wait(self.learner.submit(self._update, train.first_updates))
            updates = None
            if self.learning:
                torch._foreach_copy_(self._acting, self._learned)
                updates = self.learner.submit(self._update, count * self.updates_per_step)
            with self.stopwatch.measure("decide"):
                actions = self._act()
            with self.stopwatch.measure("environment"):
                self.collector.send(actions)
                ended = self.collector.receive(train.episode_steps(self.limit, self.progress))
            if updates is not None:
                losses = self.helper.wait(updates)
            self.steps += count
            shown = self._keep(ended)
        # The first plans may compile; before them, only random actions were taken.
        if self.learning and self.memory.plan is not None:
            self.stopwatch.count(count)
        if losses is not None and passed(train.log_every, self.steps, count):
            shown |= self._losses(losses)
        self.seconds += time.perf_counter() - started
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
        row[f"{TIME}training_s"] = self.seconds
        if self.metrics is not None:
            # Before the row is logged, because W&B shows a picture beside the row that follows.
            self._draw_learning_curve(self.metrics, row)
        self.log(row)
        return row

    @property
    def evaluation_due(self) -> bool:
        """Whether the settings ask for an evaluation after the last control step."""
        every = self.settings.train.eval_every
        return self.learning and (self.finished or passed(every, self.frames, self._stride))

    @property
    def checkpoint_due(self) -> bool:
        """Whether the settings ask for a checkpoint after the last control step."""
        every = self.settings.train.checkpoint_every
        return self.finished or passed(every, self.frames, self._stride)

    @property
    def _stride(self) -> int:
        """Env frames of one control step in all environments."""
        return self.spec.frames * len(self.collector.episodes)

    def log(self, row: dict[str, float]) -> None:
        """Write a row of metrics, where a logger is attached."""
        if self.metrics is not None:
            self.metrics.log(row, self.frames)

    def save(self) -> Path:
        """Write a checkpoint from which `restore` goes on exactly."""
        path = self.folder.checkpoints / f"{self.frames:09d}"
        first = self.replay.added - len(self.replay.spans)
        at_once, precision = int(os.environ.get(AT_ONCE, 1)), self.trainer.precision
        now = {"code": CODE, **machine(), "precision": precision, "at_once": at_once}
        meta = {
            **describe(self.trainer.averaged, self.spec, self.discount),
            "frames": self.frames,
            "steps": self.steps,
            "learning": self.learning,
            "device": self.device.type,
            "first_episode": first,
            "planner": asdict(self.settings.planner),
            "plan_row": self._plan_row(),
            "seconds": self.seconds,
            "made_by": self.made_by if now in self.made_by else [*self.made_by, now],
        }
        tensors = {
            "model": self.trainer.averaged.state_dict(),
            "learner": self.model.state_dict(),  # what learning goes on with
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

        Raises CheckpointError for a checkpoint of another device or an earlier version, or without
        its episodes.
        """
        tensors, meta = checkpoint.tensors, checkpoint.meta
        if meta["device"] != self.device.type:
            raise CheckpointError(
                f"{self.folder.path} was trained on device {meta['device']} and cannot go on "
                f"on {self.device.type}; resume it with device={meta['device']}"
            )
        if "learner" not in tensors:
            raise CheckpointError(
                f"{self.folder.path} was trained by an earlier version, which kept no average of "
                "the weights, and cannot go on; train it anew (telic control and telic evaluate "
                "still take it)"
            )
        changed = self.collector.restore(tensors["collector"])
        self.trainer.averaged.load_state_dict(tensors["model"])
        self.model.load_state_dict(tensors["learner"])
        self.trainer.restore(tensors["trainer"])
        self.replay.restore(
            tensors["replay"], lambda index: read_episode(self.folder.episodes, index)
        )
        self.memory = type(self.memory).restore(tensors["agent"], self.device)
        self.random.restore(tensors["random"])
        self.steps, self.learning = meta["steps"], meta["learning"]
        self.plan_row, self.seconds = meta["plan_row"], meta["seconds"]
        self.made_by = meta.get("made_by", [{}])  # earlier versions did not note it
        if changed.any():
            logger.warning("%s did not repeat the episode in progress", self.spec.name)
            self.memory = self.agent.forget(self.memory, changed)
        for path in self.folder.episodes.glob("*.safetensors"):
            if int(path.stem) >= self.replay.added:
                path.unlink()

    def heading(self) -> str:
        """One line on what is trained on what."""
        return (
            f"{self.spec.name}: {self.spec.observations}, {self.spec.actions}, "
            f"{1000 * self.spec.control_period:.0f} ms per control step, planner "
            f"{self.settings.planner.name}, learning in {self.trainer.precision}"
        )

    def evaluated(self, shown: dict[str, float]) -> str | None:
        """One line on an evaluation, if `shown` holds one."""
        if "eval/return" not in shown:
            return None
        return (
            f"return {shown['eval/return']:.1f} ± {shown['eval/std']:.1f} "
            f"over {len(self.eval_envs)} episodes"
        )

    def summary(self) -> list[str]:
        """Lines on how long control steps took and how it went."""
        lines = []
        spent = self.stopwatch.milliseconds()
        if spent:
            parts = ", ".join(f"{name} {spent[name]:.1f}" for name in COMPONENTS)
            beside = "" if isinstance(self.learner, Inline) else ", updates beside the rest"
            lines.append(
                f"per control step: {spent[WHOLE]:.1f} ms ({parts}) on {torch.get_num_threads()} "
                f"thread(s){beside}, {1000 * self.spec.frames / spent[WHOLE]:.0f} env frames "
                "per second, compilation and evaluation not counted"
            )
        assert self.metrics is not None
        frames, returns = self.metrics.column("eval/return")
        if returns:
            published = published_return(self.spec.name)
            known = ""
            if published is not None:
                known = f" (published TD-MPC2 at 100k frames, from states: {published:.0f})"
            lines.append(f"return {returns[-1]:.1f} at {frames[-1]} frames{known}")
            lines.append(f"learning curve: {self.folder.plots / 'learning_curve.png'}")
        if not self.learning:
            lines.append("nothing was learned: train.frames ended before train.random_steps did")
        elif self.exploration.unrewarded:
            lines.append(f"all rewards were {self.replay.most:g}, so all actions were random")
        return lines

    def close(self) -> None:
        """Close the environments, and end the thread that learns."""
        self.learner.shutdown()
        self.collector.close()
        for env in self.eval_envs:
            env.close()

    def _can_learn(self) -> bool:
        return self.steps >= self.settings.train.random_steps and self.replay.windows > 0

    def _keep(self, ended: Sequence[tuple[int, Episode]]) -> dict[str, float]:
        """Put episodes that have ended where updates find them; returns facts of the last one."""
        shown = {}
        for row, episode in ended:
            write_episode(self.folder.episodes, self.replay.added, episode)
            self.replay.add(episode)
            self._forget([row])
            shown = {
                "train/return": float(episode.rewards.sum()),
                "train/episode_steps": float(episode.steps),
            }
        return shown

    def _act(self) -> NDArray[np.float32]:
        """Actions (N, A) for the next control step."""
        episodes = self.collector.episodes
        by_chance = [
            row
            for row, episode in enumerate(episodes)
            if not self.learning or self.exploration.takes_over(episode)
        ]
        actions = np.empty((len(episodes), self.spec.action_dim), np.float32)
        if len(by_chance) < len(episodes):
            noise = [self.exploration.noise(e.index, self.progress) for e in episodes]
            actions, self.memory = self.agent.act(self.collector.obs, self.memory, np.array(noise))
        self._forget(by_chance)
        for row in by_chance:
            actions[row] = self.random.act(row, self.exploration.turn(episodes[row]))
        return actions

    def _forget(self, rows: Sequence[int]) -> None:
        """Drop the plans of `rows`."""
        if rows:
            done = np.isin(np.arange(len(self.collector.episodes)), rows)
            self.memory = self.agent.forget(self.memory, done)

    def _update(self, count: int) -> Tensor | None:
        """`count` updates of the model; returns the losses of the last one, (len(METRICS),)."""
        losses = None
        with self.stopwatch.measure("update"):
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
        kind = "one standard deviation"
        line = Line("this run", x.tolist(), mean.tolist(), *band, band=kind)
        learning_curve(path, [line], reference_curves(name), name)
        metrics.log_picture("plots/learning_curve", path)

    def _oldest_needed(self) -> int:
        """First episode that any kept checkpoint refers to."""
        files = self.folder.checkpoints.glob("*/checkpoint.json")
        return min(json.loads(f.read_text())["meta"]["first_episode"] for f in files)

    def _remove_episodes(self, before: int) -> None:
        index = before - 1
        while index >= 0 and episode_path(self.folder.episodes, index).exists():
            episode_path(self.folder.episodes, index).unlink()
            index -= 1


def trainable_spec(settings: Settings) -> EnvSpec:
    """The spec of the environment of a training.

    Raises ValueError unless episodes end, fit the replay, and hold a window to learn from.
    """
    probe = make_env(settings.env)
    spec = spec_of(probe)
    probe.close()
    if spec.episode_steps is None:
        raise ValueError(f"{spec.name} has no time limit; give it one, env.episode_frames=1000")
    # An episode of T control steps takes T + 1 rows, one that terminates T + loss.horizon.
    fewest, most = (settings.train.episode_steps(spec.episode_steps, at) for at in (0.0, 1.0))
    needed, capacity = most + settings.loss.horizon, settings.replay.capacity
    if capacity < needed:
        raise ValueError(
            f"replay.capacity must be at least {needed} to hold an episode of "
            f"{most} control steps, got {capacity}"
        )
    if settings.loss.horizon > fewest:
        raise ValueError(
            f"loss.horizon must be at most the {fewest} control steps of a training episode, "
            f"got {settings.loss.horizon}"
        )
    return spec


def passed(every: int, count: int, last: int) -> bool:
    """Whether a multiple of `every` lies in the `last` of `count`; never for 0."""
    return every > 0 and count // every > (count - last) // every
