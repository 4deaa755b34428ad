"""Change what a stranger could hand over, at random, and see that nothing bad comes of it.

    python benchmarks/fuzz.py [STORES] [CHECKPOINTS] [RECEIVED] [SEED]

STORES (500) times a byte, an offset, an id or an entry of a store is changed and its checksums are
made right again; the store is then checked and every batch of it gathered. CHECKPOINTS (300) times
a checkpoint is changed, with its checksums, and the run is evaluated with it or goes on from it.
RECEIVED (200) times the config or the schema of a run is changed, and the run is evaluated, asked
to predict, or goes on. Each case is a forked process with bounded memory and time, in a copy of the
small run that is trained first.

Right is: the process answers with one or two lines and exit code 2, or does its work. Wrong is: it
dies, ends in a traceback, takes too long, starts a program, opens a connection, or opens a file for
writing elsewhere. Prints what is wrong, with the number by which `one_case` makes it again.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyarrow as pa
import torch
import yaml

from unrolled.cli import guarded
from unrolled.data.check_store import check_store, meta_checksum, read_meta
from unrolled.data.prepare import read_vocabulary
from unrolled.data.schema import Categorical, Schema
from unrolled.data.store import JaggedSequences
from unrolled.run.checkpoint import load_weights
from unrolled.run.checkpoint_files import CheckpointFiles
from unrolled.run.directory import RunDirectory
from unrolled.run.evaluate import evaluate
from unrolled.run.loading import load_run
from unrolled.run.predict import predict

SECONDS = 60
BYTES = 6 << 30
"""What a case may take; most of it is what is imported already."""

STRANGE: list[Any] = [
    None, True, -1, 0, 2**31 - 1, 2**31, 2**63 - 1, 2**63, -(2**63), 1e308, float("nan"), "", "a",
    "../../x", "/etc/passwd", "\x00", "[bold]", [], [1], {}, {"a": 1}, "x" * 5000, [[]] * 50,
    {"_target_": "os.system", "command": "touch TOUCHED"}, {"_target_": "torch.load"},
    "${oc.env:HOME}", "${a.b}", "s3://a/b", 1.5, False,
]  # fmt: skip


@dataclass
class Base:
    """What is changed: a run, with its store below it.

    Args:
        folder: Where both are.
        task: The run's, with its weights.
    """

    folder: Path
    task: Any = None

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def store(self) -> Path:
        return next((self.folder / "stores").glob("store-*"))

    @property
    def log(self) -> Path:
        return self.folder / "log.csv"


def make_base(folder: Path) -> Base:
    """Train the small run in `folder`."""
    from unrolled.run.session import train

    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    log = Base(folder).log
    rng = random.Random(0)
    with log.open("w") as file:
        file.write("session,time,kind,item,price,bought\n")
        for session in range(90):
            bought = rng.random() < 0.5
            for event in range(rng.randint(2, 7)):
                kind = "buy" if bought and rng.random() < 0.4 else rng.choice("abc")
                file.write(f"s{session},{session * 1000 + event * 7},{kind},i{rng.randint(0, 9)},"
                           f"{rng.random():.3f},{int(bought)}\n")  # fmt: skip
    typed = [
        "task=purchase_intent", "data=events", f"data.source.path={log}",
        "data.source.sequence=session", "data.source.time=time", "data.source.time_unit=s",
        "data.source.categorical=[kind,item]", "data.source.numeric={price: standard}",
        "data.source.label=bought", f"data.store_dir={folder / 'stores'}", "model.hidden_size=4",
        "trainer=cpu", "trainer.max_steps=4", "data.batch_size=16", "scheduler=constant",
        "logger=none", f"run_dir={folder / 'run'}",
    ]  # fmt: skip
    if guarded(lambda: train(typed, "")) != 0:
        raise SystemExit("the small run could not be trained")
    base = Base(folder)
    # What each case would import and parse again, in the process that they are forked from.
    evaluate(base.run, [])
    importlib.import_module("unrolled.run.work")
    run = RunDirectory.open(base.run)
    base.task = load_run(run.config(), run, run.best_checkpoint())[2]
    # Each case copies the run: no case reads these.
    shutil.rmtree(base.run / "plots", ignore_errors=True)
    return base


# --------------------------------------------------------------------------- changes


def change_bytes(content: bytes, rng: random.Random) -> bytes:
    """Some bits, or some bytes as an extreme number, or a part cut out or doubled."""
    changed = bytearray(content)
    kind = rng.randrange(6)
    for _ in range(rng.choice((1, 1, 3, 8))):
        at = rng.randrange(max(1, len(changed)))
        if kind < 3:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 3:
            value = rng.choice((0, -1, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 2**40))
            at -= at % 8
            changed[at : at + 8] = int(value).to_bytes(8, "little", signed=True)
        elif kind == 4:
            del changed[at : at + rng.randrange(1, 64)]
        else:
            changed[at:at] = changed[at : at + rng.randrange(1, 64)]
    return bytes(changed)


def change_header(content: bytes, rng: random.Random) -> bytes:
    """Bytes of an Arrow file's metadata, where its lengths and types are: its start and its end."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 2, 3))):
        near = rng.randrange(min(1500, len(changed)))
        at = near if rng.random() < 0.5 else len(changed) - 1 - near
        changed[at] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _any_entry(content: Any, rng: random.Random) -> tuple[Any, Any]:
    """One entry of nested dictionaries and lists: what holds it, and its key there."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        entries = node.items() if isinstance(node, dict) else enumerate(node)
        for key, inner in entries:
            places.append((node, key))
            if isinstance(inner, dict | list):
                walk(inner)

    walk(content)
    return rng.choice(places)


def change_plain(value: Any, rng: random.Random) -> Any:
    """One entry of nested plain data: another value, gone, or under another name."""
    value = json.loads(json.dumps(value))
    node, key = _any_entry(value, rng)
    kind = rng.randrange(8)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[f"{key}x"] = node.pop(key)
    elif kind == 2 and isinstance(node[key], int | float):
        node[key] = node[key] * rng.choice((-1, 0, 2, 10**6, 10**12)) + rng.choice((0, 1))
    else:
        node[key] = rng.choice(STRANGE)
    return value


def change_arrow(path: Path, rng: random.Random) -> None:
    """An offset, an id, a type, a name or the number of batches, in a file that is whole."""
    content = bytearray(path.read_bytes())
    whole = pa.py_buffer(content)
    batch = pa.ipc.open_file(whole).get_batch(0)
    arrays, names = list(batch.columns), list(batch.schema.names)
    at, kind = rng.randrange(2, len(arrays)), rng.randrange(7)
    lists = arrays[at]
    if kind < 4:
        # In its place in the file: Arrow would not make such an array.
        buffer = lists.buffers()[1] if kind < 2 else lists.values.buffers()[1]
        width = 8 if kind < 2 else 4
        place = buffer.address - whole.address + width * rng.randrange(buffer.size // width)
        value = rng.choice((-1, 0, 1, 10**6, 2**31 - 1, -(2**31)))
        if kind == 1:
            value = rng.choice((2**31 - 1, 2**40, 2**62, -(2**63)))
        content[place : place + width] = value.to_bytes(width, "little", signed=True)
        path.write_bytes(content)
        return
    values = lists.values
    if kind == 4:
        values = values.cast(rng.choice((pa.int64(), pa.float64(), pa.string())), safe=False)
        arrays[at] = pa.LargeListArray.from_arrays(lists.offsets, values)
    elif kind == 5:
        names[at] = rng.choice(("id", "label", "other", names[at - 1]))
    else:
        del arrays[at], names[at]
    changed = pa.RecordBatch.from_arrays(arrays, names)
    sink = io.BytesIO()
    compression = rng.choice((None, None, "lz4", "zstd"))
    options = pa.ipc.IpcWriteOptions(allow_64bit=True, compression=compression)
    with pa.ipc.new_file(sink, changed.schema, options=options) as writer:
        for _ in range(rng.choice((1, 1, 1, 0, 2))):
            writer.write_batch(changed)
    path.write_bytes(sink.getvalue())


def make_right(store: Path, meta: dict[str, Any]) -> None:
    """Give a changed store checksums that fit."""
    for name in meta.get("checksums", {}) if isinstance(meta.get("checksums"), dict) else {}:
        with contextlib.suppress(OSError, ValueError, TypeError):
            content = (store / name).read_bytes()
            meta["checksums"][name] = hashlib.sha256(content).hexdigest()
            meta["sizes"][name] = len(content)
    meta["checksum"] = meta_checksum(meta)
    (store / "store.json").write_text(json.dumps(meta))


def change_store(store: Path, rng: random.Random) -> None:
    """Change a store, or the copy of its description in a run, and make its checksums right."""
    meta = json.loads((store / "store.json").read_text())
    files = [f for f in sorted(store.rglob("*")) if f.suffix in (".arrow", ".parquet")]
    kind = rng.randrange(5)
    arrow = [f for f in files if f.suffix == ".arrow"]
    if kind == 0 or not files:
        meta = change_plain(meta, rng)
    elif kind == 1 and arrow:
        change_arrow(rng.choice(arrow), rng)
    elif kind == 2 and arrow:
        file = rng.choice(arrow)
        file.write_bytes(change_header(file.read_bytes(), rng))
    else:
        file = rng.choice(files)
        file.write_bytes(change_bytes(file.read_bytes(), rng))
    make_right(store, meta)


def change_checkpoint(path: Path, rng: random.Random) -> None:
    """Change bytes as they are, or the parts, or the content; and make the file whole again."""
    kind = rng.randrange(4)
    if kind == 0:
        path.write_bytes(change_bytes(path.read_bytes(), rng))
        return
    if kind == 1:
        content = torch.load(path, weights_only=True)
        torch.save(_change_content(content, rng), path)
        return
    with zipfile.ZipFile(path) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    pickles = [name for name in parts if name.endswith("data.pkl")]
    name = rng.choice(pickles if kind == 2 else list(parts))
    parts[name] = change_bytes(parts[name], rng)
    if rng.random() < 0.2:
        parts.pop(rng.choice(list(parts)))
    compression = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(path, "w", compression) as new:
        for part, value in parts.items():
            new.writestr(part, value)


def _change_content(content: Any, rng: random.Random) -> Any:
    node, key = _any_entry(content, rng)
    value = node[key]
    if isinstance(value, torch.Tensor) and rng.random() < 0.7:
        node[key] = rng.choice(
            (value.flatten()[:0], value.double() * float("nan"), value.to(torch.int8),
             value.flatten(), torch.zeros(3, 3).to_sparse(), torch.empty(2, device="meta"),
             value.unsqueeze(0),
             torch.zeros(1).expand(10**9))
        )  # fmt: skip
    elif rng.random() < 0.2:
        del node[key]
    else:
        node[key] = rng.choice([*STRANGE[:22], torch.zeros(2)])
    return content


def change_received(run: Path, rng: random.Random) -> None:
    """Change a run's config, its schema or another of its files."""
    kind = rng.randrange(6)
    config = run / "config.yaml"
    if kind == 0:
        config.write_bytes(change_bytes(config.read_bytes(), rng))
    elif kind in (1, 2):
        changed = change_plain(yaml.safe_load(config.read_text()), rng)
        config.write_text(yaml.safe_dump(changed))
    elif kind in (3, 4):
        change_store(run / "schema", rng)
    else:
        file = run / rng.choice(("status.json", "metrics.csv", "metrics.json"))
        file.write_bytes(change_bytes(file.read_bytes(), rng))


# --------------------------------------------------------------------------- what is done with it


def use_store(base: Base, rng: random.Random) -> None:
    """All that training does with a store, but for the model."""
    store = base.store
    check_store(store)
    schema = Schema.from_dict(read_meta(store)["schema"])
    for feature in schema.features:
        if isinstance(feature, Categorical):
            read_vocabulary(store, feature.name)
    for split in ("train", "val", "test"):
        data = JaggedSequences.open(store / f"{split}-00000.arrow", schema)
        if not len(data):
            continue
        for batch in data.gather_several(list(torch.arange(len(data)).split(16))):
            for feature in schema.features:
                values = batch.features[feature.name]
                if isinstance(feature, Categorical):
                    torch.nn.functional.embedding(values, torch.zeros(feature.num_ids, 2))
        data.targets()


def use_checkpoint(base: Base, rng: random.Random) -> None:
    """Evaluate with it, or go on from it."""
    if rng.random() < 0.6:
        evaluate(base.run, [], base.run / "checkpoints" / "last.ckpt")
    else:
        go_on(base.run)


def load_checkpoint(base: Base, rng: random.Random) -> None:
    """Read it as a run that goes on, and load its weights; a part of `use_checkpoint`."""
    last = base.run / "checkpoints" / "last.ckpt"
    CheckpointFiles().load_checkpoint(last)
    load_weights(base.task, last, finite=True)


def load_received(base: Base, rng: random.Random) -> None:
    """Read config, schema and weights; a part of `use_received` that takes little time."""
    run = RunDirectory.open(base.run)
    load_run(run.config(), run, run.best_checkpoint())
    run.status()


def use_received(base: Base, rng: random.Random) -> None:
    """Evaluate, predict, or go on."""
    kind = rng.randrange(3)
    if kind == 0:
        evaluate(base.run, [])
    elif kind == 1:
        predict(base.run, base.log, base.folder / "out.parquet")
    else:
        go_on(base.run)


def go_on(run: Path) -> int:
    """`train resume=RUN trainer.max_steps=6`, in this process."""
    from unrolled.errors import UserError
    from unrolled.run import session
    from unrolled.run.work import main

    def here(directory: Any) -> int:
        (directory.checkpoints / "previous.ckpt").unlink(missing_ok=True)
        code = main(str(directory.path))
        error = directory.status().get("error")
        if code == 1:
            raise RuntimeError(error)
        if code:
            raise UserError(error or f"exit code {code}")
        return code

    session.launch = here  # type: ignore[attr-defined]
    return session.train([f"resume={run}", "trainer.max_steps=6"], "")


KINDS: dict[
    str, tuple[Callable[[Base, random.Random], None], Callable[[Base, random.Random], None]]
]
KINDS = {
    "store": (lambda base, rng: change_store(base.store, rng), use_store),
    "checkpoint": (
        lambda base, rng: change_checkpoint(base.run / "checkpoints" / "last.ckpt", rng),
        use_checkpoint,
    ),
    "received": (lambda base, rng: change_received(base.run, rng), use_received),
}


QUICK = {"checkpoint": load_checkpoint, "received": load_received}


# --------------------------------------------------------------------------- a case


def watch(folder: Path) -> None:
    """From now on, leave this process where it does what no file may make it do."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        bad = event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn",
                        "socket.connect", "pty.spawn")  # fmt: skip
        if event == "subprocess.Popen" and arguments[0] == "git":
            bad = False  # Which commit a run was made by.
        if event == "open" and isinstance(arguments[0], str | bytes):
            path, mode = os.path.realpath(os.fsdecode(arguments[0])), str(arguments[1] or "")
            writes = set(mode) & set("wax+") or int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
            ours = path.startswith(
                (str(folder), "/dev/", "/proc/", tempfile.gettempdir() + "/unrolled-")
            )
            bad = bool(writes) and not ours and "__pycache__" not in path
        if bad:
            print(f"WATCHED {event} {arguments!r}"[:400], file=sys.stderr, flush=True)
            os._exit(99)

    sys.addaudithook(hook)


def one_case(base: Base, kind: str, number: int, seed: int, *, quick: bool = False) -> str:
    """What came of case `number`: `right`, `refused`, or what is wrong with it."""
    change, use = KINDS[kind]
    if quick:
        use = QUICK.get(kind, use)
    rng = random.Random(f"{seed} {kind} {number}")
    place = Path(tempfile.mkdtemp(prefix="fuzz-"))
    folder = base.folder
    # In the place of the original, whose paths the run's config has.
    kept = folder.with_name(f"{folder.name}-kept")
    if not kept.exists():
        shutil.copytree(folder, kept)
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)
    change(base, rng)
    output = place / "output"
    began = time.monotonic()
    process = os.fork()
    if process == 0:
        _be_the_case(base, use, rng, output)
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended or time.monotonic() - began > SECONDS:
            break
        time.sleep(0.002)
    if not ended:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        verdict = f"took more than {SECONDS} s"
    else:
        verdict = _verdict(status, output.read_text(errors="replace"))
    shutil.rmtree(place)
    return verdict


def _be_the_case(
    base: Base, use: Callable[[Base, random.Random], None], rng: random.Random, output: Path
) -> None:
    code = 1
    try:
        file = os.open(output, os.O_WRONLY | os.O_CREAT)
        for descriptor in (1, 2):
            os.dup2(file, descriptor)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        os.chdir(base.folder)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
        watch(base.folder)
        sys.stderr.write("BEGIN\n")
        code = guarded(lambda: use(base, rng))  # type: ignore[arg-type, return-value]
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _verdict(status: int, said: str) -> str:
    if os.WIFSIGNALED(status):
        return f"died by signal {os.WTERMSIG(status)}"
    code = os.waitstatus_to_exitcode(status)
    said = said.partition("BEGIN\n")[2]
    if code == 99:
        return said[said.find("WATCHED") :].strip()
    if "Traceback" in said or code not in (0, 2):
        return f"exit code {code}: {said.strip().splitlines()[-1:]} {_where(said)}"
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    if code == 2 and not 1 <= len(errors) <= 8:
        return f"exit code 2 and {len(errors)} lines"
    return "refused" if code == 2 else "right"


def _where(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip().startswith("File ")]
    own = [line for line in lines if "unrolled" in line]
    return " | ".join([*own[-1:], *lines[-1:]])


def run_cases(
    base: Base, counts: dict[str, int], seed: int = 0, *, quick: bool = False
) -> tuple[Counter[str], list[str]]:
    """How often each kind ended how, and all that was wrong."""
    ends: Counter[str] = Counter()
    wrong: list[str] = []
    # A search for garbage in a case would copy every page that has an object.
    gc.collect()
    gc.freeze()
    for kind, count in counts.items():
        began = time.monotonic()
        for number in range(count):
            verdict = one_case(base, kind, number, seed, quick=quick)
            good = verdict in ("right", "refused")
            ends[f"{kind}: {verdict if good else 'wrong'}"] += 1
            if not good:
                wrong.append(f"{kind} {number}: {verdict}")
                print(wrong[-1], flush=True)
        print(f"{kind}: {count} cases in {time.monotonic() - began:.0f} s", flush=True)
    gc.unfreeze()
    return ends, wrong


def main(stores: int = 500, checkpoints: int = 300, received: int = 200, seed: int = 0) -> int:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="unrolled-fuzz-") as folder:
        base = make_base(Path(folder).resolve() / "base")
        counts = {"store": stores, "checkpoint": checkpoints, "received": received}
        ends, wrong = run_cases(base, counts, seed)
        os.chdir("/")
    for verdict, count in sorted(ends.items()):
        print(f"{verdict:24} {count:5}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
