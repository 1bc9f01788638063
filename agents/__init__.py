"""The MPC agent and how it runs episodes."""

from agents.agent import AgentConfig, Memory, MPCAgent
from agents.episodes import EpisodeRecord, run_episodes

__all__ = ["AgentConfig", "EpisodeRecord", "MPCAgent", "Memory", "run_episodes"]
