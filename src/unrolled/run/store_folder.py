"""Where the store of a run's log is looked for, and where it may be made.

A run can come from elsewhere, with a `data.store_dir` that its writer has chosen.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from unrolled.run.directory import RunDirectory
from unrolled.run.experiment import build
from unrolled.run.overrides import changed
from unrolled.terminal import say


def with_own_stores(config: dict[str, Any], run: RunDirectory) -> dict[str, Any]:
    """The config with the receiver's own folder of stores, where its own has no store of the log.

    The folder that the config names is only read; nothing is written there unless it has the store.

    Args:
        config: The run's, or one with other data, without a `data.store_dir` that was typed.
        run: Its schema says of which log its store is.

    Raises:
        UserError: When the log can't be read.
    """
    source, given = config["data"].get("source"), config["data"].get("store_dir")
    own = Path(os.environ.get("UNROLLED_STORES") or "stores").absolute()
    if not isinstance(source, dict) or not given or Path(given) == own:
        return config

    from unrolled.data.check_store import read_meta
    from unrolled.data.prepare import fingerprint, store_path

    log = build(source, "data.source")
    if store_path(log, Path(given), remember=False).is_dir():
        return config
    schema = run.path / "schema"
    if not (schema / "store.json").is_file() or read_meta(schema)["fingerprint"] == fingerprint(
        log, own
    ):
        say(
            f"data.store_dir: {given} has no store of this log, and none is made in a folder that "
            f"a run names: it is made in {own}; type data.store_dir=FOLDER for another one",
            stderr=True,
        )
    return changed(config, {"data.store_dir": str(own)})
