"""Datasets of recorded episodes: Minari's format on disk, telic's facts beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from envs import EnvSpec
from envs.goals import EXTRA
from envs.pixels import NUMBERS
from scripts.version import code_version
from world_models import Episode

FACTS = "telic.json"
HELD_OUT = 20  # one in so many episodes, the first included, is not trained on: goals come from it


@dataclass(frozen=True)
class Recorded:
    """An episode, and the states that the simulation went through."""

    episode: Episode
    states: NDArray[np.float64] | None = None  # (T + 1, S), of goal tasks

    def in_blocks(self, size: int) -> Recorded:
        """The same with `size` actions per control step, without what is left over at the end."""
        one = self.episode
        steps = one.steps // size
        kept = steps * size
        episode = Episode(
            one.obs[: kept + 1 : size],
            one.actions[:kept].reshape(steps, size * one.actions.shape[1]),
            one.rewards[:kept].view(steps, size).sum(1),
            one.terminated and kept == one.steps,
        )
        return Recorded(episode, None if self.states is None else self.states[: kept + 1 : size])


@dataclass(frozen=True)
class Dataset:
    """A dataset on disk."""

    path: Path
    facts: dict[str, Any]  # env, policy, seed, control steps

    @property
    def env(self) -> str:
        """Name of the environment that it was recorded in."""
        return str(self.facts["env"])

    @classmethod
    def open(cls, path: Path) -> Dataset:
        """Raises ValueError for a folder that `telic collect` did not finish."""
        try:
            facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
        except OSError:
            raise ValueError(f"{path} is no dataset; make one with telic collect") from None
        except ValueError:
            raise ValueError(f"{path / FACTS} is damaged: not JSON") from None
        return cls(path, facts)

    def read(self, action_block: int = 1) -> Iterator[Recorded]:
        """All episodes that hold `action_block` actions at least, see `Recorded.in_blocks`.

        Raises ValueError if there are none, or they cannot be read.
        """
        minari = import_minari()
        found_any = False
        try:
            for found in minari.MinariDataset(self.path / "data").iterate_episodes():
                states = found.infos.get("state") if found.infos else None
                episode = Episode(
                    torch.from_numpy(np.asarray(found.observations)),
                    torch.from_numpy(np.asarray(found.actions, np.float32)),
                    torch.from_numpy(np.asarray(found.rewards, np.float32)),
                    bool(found.terminations[-1]),
                )
                one = Recorded(episode, None if states is None else np.asarray(states))
                if episode.steps >= action_block:
                    found_any = True
                    yield one.in_blocks(action_block)
        except (OSError, KeyError) as error:
            raise ValueError(f"{self.path} cannot be read: {error}") from None
        if not found_any:
            raise ValueError(
                f"{self.path} has no episode as long as one control step of {action_block} actions"
            )


def write_dataset(
    path: Path, spec: EnvSpec, facts: dict[str, Any], episodes: Iterable[Recorded]
) -> Dataset:
    """Write episodes to a new folder `path`, which appears when it is complete.

    `minari.load_dataset` finds it where MINARI_DATASETS_PATH is the folder around it.
    """
    minari = import_minari()
    fresh = path.with_name(f".{path.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    seen: spaces.Box[Any] = spaces.Box(-np.inf, np.inf, (spec.obs_dim,), np.float32)
    if spec.pictures:
        seen = spaces.Box(0, 255, (NUMBERS,), np.uint8)
    low = 0.0 if spec.choices else -1.0
    storage = minari.dataset.minari_storage.MinariStorage.new(
        (fresh / "data").resolve(),  # Minari looks for its files relative to this one, twice
        observation_space=seen,
        action_space=spaces.Box(low, 1.0, (spec.action_dim,), np.float32),
        data_format="hdf5",
        jpeg_encoding=False,
    )
    about = {"dataset_id": path.name, "minari_version": minari.__version__, **facts}
    storage.update_metadata({**about, "algorithm_name": facts["policy"]})
    storage.update_episodes(_buffer(minari, i, one) for i, one in enumerate(episodes))
    (fresh / FACTS).write_text(json.dumps({**facts, "version": code_version()}), encoding="utf-8")
    fresh.rename(path)
    return Dataset.open(path)


def _buffer(minari: ModuleType, index: int, recorded: Recorded) -> Any:
    episode = recorded.episode
    ended = np.zeros(episode.steps, bool)
    ended[-1] = episode.terminated
    truncated = np.zeros(episode.steps, bool)
    truncated[-1] = not episode.terminated
    return minari.data_collector.EpisodeBuffer(
        id=index,
        observations=episode.obs.numpy(),
        actions=episode.actions.numpy(),
        rewards=episode.rewards.numpy(),
        terminations=ended,
        truncations=truncated,
        infos=None if recorded.states is None else {"state": recorded.states},
    )


def import_minari() -> ModuleType:
    """Minari. Raises ValueError, naming the extra to install, if it is not there."""
    try:
        import minari
        import minari.data_collector
        import minari.dataset.minari_storage
    except ModuleNotFoundError as error:
        raise ValueError(f"datasets need the Python package {error.name!r}: {EXTRA}") from error
    return minari
