"""How long the package takes to import and the command line to answer, beside a bare interpreter."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Any

ROUNDS = 7
COMMANDS = {
    "python": ["-c", "pass"],
    "import latentprint": ["-c", "import latentprint"],
    "latentprint --help": ["-m", "latentprint", "--help"],
}


def startup() -> list[dict[str, Any]]:
    """A row a command: median seconds of several starts, interleaved, and the ratio to a bare interpreter."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, arguments in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
            seconds[name].append(time.perf_counter() - began)
    bare = statistics.median(seconds["python"])
    return [{"command": name, "seconds": round(statistics.median(found), 3), "lowest": round(min(found), 3),
             "highest": round(max(found), 3), "ratio": round(statistics.median(found) / bare, 2)}
            for name, found in seconds.items()]
