"""The training of a goal-conditioned model on data; interruptible and resumable at any update."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from agents import run_goal_episodes
from envs import make_env, spec_of
from scripts.agent_files import describe, make_goal_model
from scripts.datasets import HELD_OUT, Dataset, Recorded
from scripts.goal_tasks import draw_goals, goal_agent, goal_task
from scripts.metrics import MetricsLogger
from scripts.plots import Line, success_curve
from scripts.run_folder import RunFolder
from scripts.settings import GoalSettings, make_planner_from, resolve_device
from scripts.statistics import wilson
from scripts.training import EVALUATION_SEED, TIME, passed
from world_models import (
    GOAL_METRICS,
    Checkpoint,
    CheckpointError,
    GoalTrainer,
    Trajectories,
    prune_checkpoints,
    save_checkpoint,
    window_length,
)

logger = logging.getLogger(__name__)

EXAMPLES = 4_096  # observations whose mean and deviation are taken
COLLAPSED = 0.1  # share of the latent numbers; a lower effective rank is warned of


class OfflineRun:
    """All the state of a run. `advance` makes one update; `save` can follow any of them."""

    unit = "updates"
    axis = "updates"
    doing = "training"

    def __init__(self, settings: GoalSettings, folder: RunFolder) -> None:
        """Writes nothing. Raises ValueError or UsageError for settings that cannot be trained."""
        self.settings, self.folder = settings, folder
        self.device = resolve_device(settings.device)
        self.datasets = [Dataset.open(path) for path in settings.datasets]
        self.envs = [make_env(settings.env) for _ in range(settings.train.eval_episodes)]
        self.spec = spec_of(self.envs[0])
        goal_task(self.envs[0])
        if self.spec.choices:
            raise ValueError(f"train.objective=goal takes no discrete actions, as {self.spec.name}")
        for dataset in self.datasets:
            self._check_data(dataset)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            model = make_goal_model(self.spec, settings.model)
        self.model = model.to(self.device)
        self.trainer = GoalTrainer(self.model, settings.loss)
        first, *others = (self._read(dataset) for dataset in self.datasets)
        self.held_out = first[::HELD_OUT]
        draw_goals(settings.goal, self.held_out, 1, 0)  # finds out now if there are none
        kept = [one.episode for i, one in enumerate(first) if i % HELD_OUT]
        kept += [one.episode for other in others for one in other]
        length = window_length(self.model, settings.loss)
        self.data = Trajectories(kept, length, settings.seed, self.spec.pictures)
        self.hash = self.data.hash
        self.planner = make_planner_from(settings.planner)
        self.steps = 0  # updates made
        self.seconds = 0.0  # spent in updates
        self.metrics: MetricsLogger | None = None

    @property
    def done(self) -> int:
        """Updates made."""
        return self.steps

    @property
    def finished(self) -> bool:
        """Whether all updates of the settings have been made."""
        return self.steps >= self.settings.total

    @property
    def evaluation_due(self) -> bool:
        """Whether the settings ask for an evaluation after the last update."""
        return self.finished or passed(self.settings.train.eval_every, self.steps, 1)

    @property
    def checkpoint_due(self) -> bool:
        """Whether the settings ask for a checkpoint after the last update."""
        return self.finished or passed(self.settings.train.checkpoint_every, self.steps, 1)

    def advance(self) -> dict[str, float]:
        """One update; what is worth showing of it."""
        started = time.perf_counter()
        if not self.steps:
            self.model.fit(self.data.examples(EXAMPLES).to(self.device))
        losses = self.trainer.update(self.trainer.draw(self.data), self.steps / self.settings.total)
        self.steps += 1
        shown = {}
        if self.finished or passed(self.settings.train.log_every, self.steps, 1):
            values = zip(GOAL_METRICS, losses.tolist(), strict=True)
            shown = {f"train/{name}": value for name, value in values}
            shown["train/effective_rank"] = self.trainer.rank(self.data)
            shown["train/latent_spread"] = self.model.latent_spread()
        self.seconds += time.perf_counter() - started
        if shown:
            self.log({**shown, f"{TIME}training_s": self.seconds})
            self._warn_of_collapse(shown["train/effective_rank"])
        return shown

    def evaluate(self) -> dict[str, float]:
        """Closed-loop episodes on fixed starts and goals; logs and returns the success rate."""
        settings, started = self.settings, time.perf_counter()
        seeds = [EVALUATION_SEED + i for i in range(len(self.envs))]
        assert self.spec.episode_steps is not None
        reached = run_goal_episodes(
            lambda goals: goal_agent(
                self.model, self.planner, settings.agent, settings.goal, goals
            ),
            self.envs,
            seeds,
            draw_goals(settings.goal, self.held_out, len(seeds), EVALUATION_SEED),
            self.spec.episode_steps,
            device=str(self.device),
        )
        times = [steps for steps in reached if steps is not None]
        row = {
            "eval/success": len(times) / len(reached),
            "eval/episodes": float(len(reached)),
            "eval/steps": float(np.median(times)) if times else float("nan"),
            f"{TIME}evaluation_s": time.perf_counter() - started,
        }
        if self.metrics is not None:
            # Before the row is logged, because W&B shows a picture beside the row that follows.
            self._draw_learning_curve(self.metrics, row)
        self.log(row)
        return row

    def log(self, row: dict[str, float]) -> None:
        """Write a row of metrics, where a logger is attached."""
        if self.metrics is not None:
            self.metrics.log(row, self.steps)

    def save(self) -> Path:
        """Write a checkpoint from which `restore` goes on exactly."""
        path = self.folder.checkpoints / f"{self.steps:09d}"
        meta = {
            **describe(self.model, self.spec, 1.0),
            "data": {"path": self.settings.data, "hash": self.hash, **self.datasets[0].facts},
            "updates": self.steps,
            "device": self.device.type,
            "planner": asdict(self.settings.planner),
            "seconds": self.seconds,
        }
        tensors = {
            "model": self.model.state_dict(),
            "trainer": self.trainer.state(),
            "draws": {"rng": self.data.rng.get_state()},
        }
        save_checkpoint(path, tensors, meta)
        prune_checkpoints(self.folder.checkpoints, self.settings.train.keep_checkpoints)
        return path

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on where `save` stopped. Raises CheckpointError for other data or another device."""
        tensors, meta = checkpoint.tensors, checkpoint.meta
        if meta["data"]["hash"] != self.hash:
            raise CheckpointError(
                f"{self.settings.data} is not the data that {self.folder.path} was trained on"
            )
        if meta["device"] != self.device.type:
            raise CheckpointError(
                f"{self.folder.path} was trained on device {meta['device']}; resume it with "
                f"device={meta['device']}"
            )
        self.model.load_state_dict(tensors["model"])
        self.trainer.restore(tensors["trainer"])
        self.data.rng.set_state(tensors["draws"]["rng"])
        self.steps, self.seconds = meta["updates"], meta["seconds"]

    def heading(self) -> str:
        """One line on what is trained on what."""
        return (
            f"{self.spec.name}: {self.spec.observations}, {self.spec.actions}, "
            f"{self.data.windows} windows of {self.settings.data} (data {self.hash}), planner "
            f"{self.settings.planner.name}"
        )

    def evaluated(self, shown: dict[str, float]) -> str | None:
        """One line on an evaluation, if `shown` holds one."""
        if "eval/success" not in shown:
            return None
        count = len(self.envs)
        rate = wilson(round(shown["eval/success"] * count), count)
        line = (
            f"{100 * rate.point:.0f} % of {count} goals reached "
            f"({100 * rate.low:.0f} to {100 * rate.high:.0f})"
        )
        if math.isnan(shown["eval/steps"]):
            return line
        return f"{line}, median {shown['eval/steps']:.0f} control steps"

    def summary(self) -> list[str]:
        """Lines on how it went."""
        lines = [
            f"per update: {1000 * self.seconds / max(1, self.steps):.1f} ms on "
            f"{torch.get_num_threads()} thread(s), compilation included"
        ]
        assert self.metrics is not None
        _, ranks = self.metrics.column("train/effective_rank")
        if ranks:
            lines.append(
                f"effective rank of the latents: {ranks[-1]:.1f} of {self.model.latent_dim}"
            )
        return [*lines, f"learning curve: {self.folder.plots / 'learning_curve.png'}"]

    def close(self) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()

    def _check_data(self, dataset: Dataset) -> None:
        """Raise ValueError unless the data was recorded as the environment is seen now."""
        facts = dataset.facts
        now = {
            "env": self.spec.name,
            "obs": self.settings.env.obs,
            "action_repeat": self.spec.action_repeat,
        }
        for key, value in now.items():
            if facts.get(key) != value:
                option = {"env": "env"}.get(key, f"env.{key}")
                raise ValueError(
                    f"data={dataset.path} was recorded with {option}={facts.get(key)}, not {value}"
                )

    def _read(self, dataset: Dataset) -> list[Recorded]:
        """All episodes. Raises ValueError if they do not show what the environment shows."""
        recorded = list(dataset.read(self.settings.env.action_block))
        width = recorded[0].episode.obs.shape[1]
        if width != self.spec.newest_dim:
            raise ValueError(
                f"data={dataset.path} has observations of {width} numbers and {self.spec.name} "
                f"shows {self.spec.newest_dim}; collect it again"
            )
        return recorded

    def _warn_of_collapse(self, rank: float) -> None:
        if rank < COLLAPSED * self.model.latent_dim and self.finished:
            logger.warning(
                "latents fill %.1f of %d directions: they have collapsed; raise loss.variance",
                rank,
                self.model.latent_dim,
            )

    def _draw_learning_curve(self, metrics: MetricsLogger, row: dict[str, float]) -> None:
        """Redraw plots/learning_curve.png with the evaluation in `row` as its last point."""
        rates = dict(zip(*metrics.column("eval/success"), strict=True))  # by updates
        counts = dict(zip(*metrics.column("eval/episodes"), strict=True))
        rates[self.steps], counts[self.steps] = row["eval/success"], row["eval/episodes"]
        found = []
        for updates, rate in rates.items():
            count = round(counts.get(updates, len(self.envs)))  # earlier versions did not note it
            found.append(wilson(round(rate * count), count))
        low, high = [one.low for one in found], [one.high for one in found]
        line = Line("this run", list(rates), list(rates.values()), low, high)
        path = self.folder.plots / "learning_curve.png"
        success_curve(path, [line], f"{self.spec.name}, {len(self.envs)} goals, closed loop")
        metrics.log_picture("plots/learning_curve", path)
