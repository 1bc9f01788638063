"""The `telic` command: arguments in, exit code out."""

from __future__ import annotations

import argparse
import difflib
import importlib
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from scripts.terminal import LogLines, complain
from scripts.usage import UsageError
from scripts.version import code_version

DONE, FAILED, USAGE_ERROR, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Command:
    """A subcommand: where its code is, one line about it, and examples."""

    # Has main(files, overrides) -> exit code, and option_help(files, overrides) -> text where
    # there are options.
    module: str
    summary: str
    examples: tuple[str, ...]
    takes: str = "key=value"  # what its arguments are called
    hint: str = "options, dotted, such as planner.horizon=5"
    configurable: bool = True  # whether it takes options and --config


COMMANDS = {
    "train": Command(
        "scripts.train",
        "train a world model while controlling with it; resume a training",
        (
            "telic train env=dmc/cartpole-swingup planner=grasp train.frames=30000 seed=1",
            "telic train env=gym/Pendulum-v1 planner=mppi planner.horizon=5",
            "telic train resume=runs/cartpole-swingup-grasp-seed1",
            "telic train resume=runs/cartpole-swingup-grasp-seed1 train.frames=200000",
            "telic train env=goal/push-t data=datasets/push-t-scripted-v0 train.objective=goal",
            "telic train --config debug        every size shrunk: the pipeline in seconds",
            "telic train --config my.yaml --config debug seed=2        later ones win",
        ),
    ),
    "sweep": Command(
        "scripts.sweep",
        "train many runs side by side: every combination of listed values",
        (
            "telic sweep env=dmc/cup-catch,dmc/reacher-easy seed=1,2,3 train.frames=50000",
            "telic sweep planner=grasp,mppi,cem seed=1,2,3 workers=2 runs=runs/planners",
        ),
    ),
    "collect": Command(
        "scripts.collect",
        "record episodes, as data to train a world model on",
        (
            "telic collect env=goal/pointmaze-umaze policy=smooth-random episodes=2000",
            "telic collect env=goal/pointmaze-medium episodes=5000 steps=200 seed=2",
            "telic collect policy=agent run=runs/push-t-goal-seed1 planner=grasp episodes=500",
        ),
    ),
    "control": Command(
        "scripts.control",
        "control with a trained model: return, latency, pictures of a plan, video",
        (
            "telic control run=runs/cartpole-swingup-grasp-seed1 planner=grasp video=true",
            "telic control run=runs/... planner=cem planner.horizon=8 episodes=3",
            "telic control run=runs/pointmaze-umaze-goal-seed1 goal.source=random horizon=80",
        ),
    ),
    "evaluate": Command(
        "scripts.evaluate",
        "compare planners on the same model and the same starts",
        (
            "telic evaluate run=runs/cartpole-swingup-grasp-seed1 planner=grasp,cem episodes=10",
            "telic evaluate run=runs/... planner=grasp,gradient planner.horizon=12",
        ),
    ),
    "benchmark": Command(
        "scripts.benchmark",
        "measure planners (latency, truth, horizon, goals) and training (dmc)",
        (
            "telic benchmark suite=latency",
            "telic benchmark suite=latency planner=grasp,cem horizons=10,50 batches=1 repeats=10",
            "telic benchmark suite=truth planner=grasp,gradient,cem budgets=10,40",
            "telic benchmark suite=horizon runs=runs/a,runs/b planner=grasp,gradient,mppi",
            "telic benchmark suite=dmc tasks=cartpole-swingup,walker-walk seeds=1,2,3",
            "telic benchmark suite=goals runs=runs/pointmaze-umaze-goal-seed1 pairs=20",
            "telic benchmark suite=horizon --help",
        ),
    ),
    "report": Command(
        "scripts.report",
        "show what a run has learned, how its planners did, and where its pictures are",
        ("telic report run=runs/cartpole-swingup-grasp-seed1",),
    ),
    "export": Command(
        "scripts.export",
        "copy a trained model without what only training needs, to share it",
        (
            "telic export run=runs/cartpole-swingup-grasp-seed1",
            "telic export run=runs/... checkpoint=runs/.../checkpoints/000090000 out=shared/a",
        ),
    ),
    "list": Command(
        "scripts.listing",
        "list planners, envs, models or configs",
        ("telic list planners", "telic list envs"),
        takes="planners|envs|models|configs",
        hint="what to list",
        configurable=False,
    ),
    "doctor": Command(
        "scripts.doctor",
        "check this machine: torch, compiler, rendering, W&B",
        ("telic doctor",),
        takes="",
        hint=argparse.SUPPRESS,
        configurable=False,
    ),
    "check-env": Command(
        "scripts.check_env",
        "check an environment: spaces, seeding, speed",
        ("telic check-env env=gym/Pendulum-v1",),
    ),
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are UsageErrors."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError instead of printing the usage and leaving."""
        raise UsageError(f"{message}; see `{self.prog} --help`")


def overview() -> str:
    """What `telic --help` says."""
    width = max(map(len, COMMANDS))
    lines = [
        "usage: telic COMMAND [--config FILE] [key=value ...]",
        "",
        "Train a latent world model and control with it by planning.",
        "",
        "commands:",
        *(f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()),
        "",
        "examples:",
        *(f"  {command.examples[0]}" for command in COMMANDS.values()),
        "",
        "`telic COMMAND --help` explains a command and lists its options. `telic --version`.",
        "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.",
    ]
    return "\n".join(lines) + "\n"


def parser(name: str) -> Parser:
    """The argument parser of a command; options are `key=value`, so they are a list of words."""
    command = COMMANDS[name]
    one = Parser(
        prog=f"telic {name}",
        description=command.summary[0].upper() + command.summary[1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    one.add_argument("-h", "--help", action="store_true", help="show this help and exit")
    if command.configurable:
        one.add_argument(
            "--config",
            action="append",
            default=[],
            metavar="FILE",
            help="YAML file or bundled config, below the options; may be repeated",
        )
    one.add_argument("options", nargs="*", metavar=command.takes or None, help=command.hint)
    one.epilog = "examples:\n  " + "\n  ".join(command.examples)
    return one


def run(words: Sequence[str]) -> int:
    """Run the command that `words` name. Raises UsageError, and whatever the command raises."""
    if not words:
        raise UsageError(f"no command; choose from {', '.join(COMMANDS)}, or see `telic --help`")
    if words[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        return DONE
    if words[0] == "--version":
        sys.stdout.write(f"telic {code_version()}\n")
        return DONE
    if words[0] not in COMMANDS:
        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"unknown command {words[0]!r}{hint} (commands: {', '.join(COMMANDS)})")
    command, one = COMMANDS[words[0]], parser(words[0])
    known, unknown = one.parse_known_intermixed_args(words[1:])
    if unknown:
        raise UsageError(f"unknown argument {unknown[0]!r}; options are written key=value")
    files = getattr(known, "config", [])
    # Imported late, so that help and usage errors do not wait for torch.
    module = importlib.import_module(command.module)
    if known.help:
        if command.configurable:
            one.epilog += "\n\n" + module.option_help(files, known.options)
        one.print_help()
        return DONE
    return int(module.main(files, known.options))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    handler = LogLines(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        return run(words)
    except UsageError as error:
        complain("error", str(error))
        return USAGE_ERROR
    except KeyboardInterrupt:
        complain("interrupted", f"telic {words[0]} stopped at once", "yellow")
        return INTERRUPTED
    except Exception:
        logging.getLogger(__name__).exception("telic %s failed", words[0])
        return FAILED
    finally:
        logging.getLogger().removeHandler(handler)


if __name__ == "__main__":
    sys.exit(main())
