"""The machine that a program runs on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

NUMBERS = (("family", "cpu family"), ("model", "model"))


def machine() -> dict[str, Any]:
    """What timings depend on beside the code."""
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "torch": torch.__version__}


def cpu_name(info: Path = Path("/proc/cpuinfo")) -> str:
    """Of the first processor: "AMD EPYC (family 25, model 17)".

    Virtual machines often leave the generation out of the name, and an update of the default sizes
    takes 1.7 times as long on some processors of one name as on others; the numbers tell them
    apart. Where Linux tells nothing, what Python knows.
    """
    first = info.read_text().partition("\n\n")[0] if info.is_file() else ""
    fields = [line.partition(":") for line in first.splitlines()]
    known = {name.strip(): value.strip() for name, _, value in fields}
    if "model name" not in known:
        return platform.processor() or platform.machine()
    numbers = [f"{part} {known[key]}" for part, key in NUMBERS if key in known]
    return known["model name"] + (f" ({', '.join(numbers)})" if numbers else "")
