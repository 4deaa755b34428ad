"""What each encoder costs against torch's LSTM of equal size, forward and backward.

    python benchmarks/cells.py [--rounds 9] [--batch 64] [--time 100] [--input 128] [--hidden 128]
        [--varied] [--threads 1]

Every encoder of `conf/model`, with its defaults and the variants below, runs once in each round,
one after the other, and torch.nn.LSTM among them; the median of the rounds counts. On the CPU it is
the time of the processor that counts, which other processes disturb least, with the memory
allocator's settings of a run. `--varied` draws lengths of 1 .. time instead of equal ones. With a
CUDA device it is measured too, after the CPU.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unrolled.run.launch import environment

os.environ.setdefault("OMP_NUM_THREADS", "1")
if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
    # The memory allocator's settings of a run; they are read when a process starts.
    os.execve(sys.executable, [sys.executable, *sys.argv], environment({"devices": 1}))

import torch
import yaml
from torch import Tensor, nn

from unrolled.run.experiment import build

CONF = Path(__file__).parents[1] / "conf" / "model"
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "elman": [{"start": "zero"}],
    "peephole_lstm": [{"peepholes": "full"}, {"peepholes": "none"}, {"variational_dropout": 0.2}],
    "reset_before_gru": [{"variational_dropout": 0.2}],
    "norm_lstm": [{"norm": "batch"}],
    "lstm": [{"projection_size": 64}],
}


def encoders(sizes: argparse.Namespace) -> dict[str, nn.Module]:
    """Every encoder of the configs, by its name and options."""
    found: dict[str, nn.Module] = {}
    for path in sorted(CONF.glob("*.yaml")):
        node = {**yaml.safe_load(path.read_text()), "hidden_size": sizes.hidden}
        for options in [{}, *VARIANTS.get(path.stem, [])]:
            name = " ".join([path.stem, *(f"{k}={v}" for k, v in options.items())])
            try:
                found[name] = build({**node, **options}, "model", input_size=sizes.input)
            except Exception as error:
                print(f"{name}: left out, {error}")
    return found


def measure(sizes: argparse.Namespace, device: torch.device) -> None:
    torch.manual_seed(0)
    lengths = torch.full((sizes.batch,), sizes.time)
    if sizes.varied:
        lengths = torch.randint(1, sizes.time + 1, (sizes.batch,))
        lengths[0] = sizes.time
    x = torch.randn(sizes.batch, sizes.time, sizes.input, device=device, requires_grad=True)
    plain = nn.LSTM(sizes.input, sizes.hidden, batch_first=True).to(device)
    runs: dict[str, Callable[[], Tensor]] = {"torch.nn.LSTM": lambda: plain(x)[0]}
    for name, encoder in encoders(sizes).items():
        encoder.to(device)
        runs[name] = lambda encoder=encoder: encoder(x, lengths)[0]

    def seconds(run: Callable[[], Tensor]) -> float:
        clock = time.process_time if device.type == "cpu" else time.perf_counter
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = clock()
        run().sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    for run in runs.values():
        seconds(run)
        seconds(run)
    rounds = [{name: seconds(run) for name, run in runs.items()} for _ in range(sizes.rounds)]
    where = (
        torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {sizes.threads} thread"
    )
    kind = "lengths 1 .. time" if sizes.varied else "equal lengths"
    print(
        f"\n{where}; batch {sizes.batch}, time {sizes.time}, input {sizes.input}, hidden "
        f"{sizes.hidden}, {kind}; median of {sizes.rounds} rounds (range of the ratios)\n"
    )
    print("| encoder | microseconds a step | of torch.nn.LSTM |\n| --- | --- | --- |")
    for name in runs:
        each = [r[name] / r["torch.nn.LSTM"] for r in rounds]
        step = statistics.median(r[name] for r in rounds) / sizes.time * 1e6
        ratio = f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"
        print(f"| {name} | {step:.0f} | {ratio} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--time", type=int, default=100)
    parser.add_argument("--input", type=int, default=128)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--varied", action="store_true")
    sizes = parser.parse_args()
    torch.set_num_threads(sizes.threads)
    measure(sizes, torch.device("cpu"))
    if torch.cuda.is_available():
        measure(sizes, torch.device("cuda"))


if __name__ == "__main__":
    main()
