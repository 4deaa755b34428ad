"""The stores that DuckDB and Spark make of one log: equal, checksum by checksum; the time of both.

    python benchmarks/engines.py                        Globo's clicks, as data=globo has them
    python benchmarks/engines.py --events 5000000       a generated log, cut into sessions

Needs the extra `spark` and Java 17.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from unrolled.data.log import EventLog
from unrolled.data.prepare import prepare
from unrolled.run.compose import compose
from unrolled.run.experiment import build
from unrolled.run.overrides import read_command_line


def globo() -> EventLog:
    """The log as `data=globo` describes it."""
    line = read_command_line(["data=globo", "task=purchase_intent"])
    log = build(compose(line).config["data"]["source"], "data.source")
    assert isinstance(log, EventLog)
    return log


def generated(folder: Path, events: int) -> EventLog:
    """The log of benchmarks/prepare.py."""
    from prepare import DESCRIPTION, generate

    path = folder / f"log-{events}.parquet"
    if not path.exists():
        generate(path, events)
    return EventLog(path=path, **DESCRIPTION)


def made(log: EventLog, stores: Path, engine: Any) -> dict[str, Any]:
    """What `store.json` says of a store made by an engine."""
    started = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    store = prepare(log, stores / engine, engine=engine, memory_limit="4GB")
    after = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    # A process counts as a child's once it has ended: Java's machine has.
    cpu = sum(a.ru_utime + a.ru_stime - b.ru_utime - b.ru_stime
              for a, b in zip(after, before, strict=True))  # fmt: skip
    print(f"{engine:7} {time.monotonic() - started:.1f} s, {cpu:.1f} CPU seconds; largest resident "
          f"size of the driver's Python so far {after[0].ru_maxrss / 1e6:.2f} GB")  # fmt: skip
    meta: dict[str, Any] = json.loads((store / "store.json").read_text())
    return meta


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, help="of a generated log; without it Globo's")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = generated(folder, args.events) if args.events else globo()
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Spark's time has its start "
              "in it")  # fmt: skip
        stores = [made(log, folder / "stores", engine) for engine in ("spark", "duckdb")]
        assert stores[0] == stores[1], "the stores differ"
        files = len(stores[0]["checksums"])
        print(f"{stores[0]['read']['events']:,} events; both stores are equal in all of "
              f"store.json, the checksums of {files} files among it:")  # fmt: skip
        for file, digest in stores[0]["checksums"].items():
            print(f"  {digest[:16]} {file}")


if __name__ == "__main__":
    main()
