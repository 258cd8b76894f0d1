"""What a second training process gives: images per second, with the same batch in each process.

pytest tests/benchmarks/test_training_scaling.py -m slow --benchmark-enable

Each process has one thread. A ratio of 2 is ideal where each process has a core of its own and nothing else runs. On
two cores it says what the exchange of gradients and the shared memory cost. It says nothing about GPUs.
"""

import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
from training_speed import BATCH

CONTESTANTS = {"one process": (1, 0), "two, with copies": (2, 0), "two, sharded": (2, 1)}


def images_per_second(folder: Path, count: int, shard: int, steps: int) -> float:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    script = ["tests/support/training_speed.py", str(folder), str(shard), str(steps)]
    path = os.pathsep.join([str(Path.cwd()), str(Path("tests/support").resolve())])
    subprocess.run(
        [*command, *script], env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, check=True,
        capture_output=True,
    )  # fmt: skip
    return count * BATCH / float((folder / "seconds").read_text())


@pytest.mark.slow
@pytest.mark.benchmark(group="training in several processes")
def test_images_per_second_of_two_processes(benchmark, tmp_path):
    """The median of three rounds, in which the contestants take turns. With benchmarks disabled, all run once."""
    rounds, steps = (3, 20) if benchmark.enabled else (1, 4)
    found: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for turn in range(rounds):
        for name, (count, shard) in CONTESTANTS.items():
            found[name].append(images_per_second(tmp_path / f"{count}{shard}{turn}", count, shard, steps))
    benchmark(lambda: None)
    speeds = {name: median(values) for name, values in found.items()}
    ratios = {f"ratio of {name}": speeds[name] / speeds["one process"] for name in list(CONTESTANTS)[1:]}
    benchmark.extra_info.update(images_per_second=speeds, load=os.getloadavg()[0], **ratios)
    assert all(speed > 0 for speed in speeds.values())
