"""What a row of a benchmark was measured with, and how it is kept: one JSON object a line, appended."""

import datetime
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path


def environment() -> dict[str, object]:
    """Commit, date, machine in words, versions."""
    return {
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{os.cpu_count()}-core {platform.machine()}, {processor()}",
        "python": platform.python_version(),
        "jax": version("jax"),
    }


def commit() -> str:
    """The commit at hand; empty where there is no git."""
    if shutil.which("git") is None:
        return ""
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                          check=False).stdout.strip()


def processor() -> str:
    """The processor's name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def load() -> float:
    """How many programs wanted to run over the last minute, ours included."""
    return round(os.getloadavg()[0], 2)


def append(path: Path, row: Mapping[str, object]) -> None:
    """Add a row to a file, which is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as out:
        out.write(json.dumps(row) + "\n")
