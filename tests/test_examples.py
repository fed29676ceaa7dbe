"""The examples run as a reader would run them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_hand_over_without_a_face(tmp_path: Path) -> None:
    """Noise for photos and three steps of everything: it trains both arms and says how their drawings are named."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 10
    np.savez(tmp_path / "pack.npz", images=rng.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8), labels=labels,
             class_names=np.array([f"class {i}" for i in range(10)]), split=(np.arange(60) >= 40).astype(np.uint8))
    command = [sys.executable, str(EXAMPLES / "handover_cifar.py"), str(tmp_path / "pack.npz"), "--out",
               str(tmp_path / "run"), "--scale", "0.001", "--seeds", "1", "--images", "10"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for arm in ("hand-over", "labels alone"):
        shares = [float(x) for x in re.findall(r"([\d.]+)% \(", said.split(f"{arm}: ")[1].splitlines()[0])]
        assert len(shares) == 3 and all(0 <= share <= 100 for share in shares)
    assert (tmp_path / "run" / "checkpoints").is_dir()
