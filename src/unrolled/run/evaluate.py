"""Testing a run's checkpoint again, on its own data or on other data.

What can be wrong with the arguments is looked at before torch is imported.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from unrolled.errors import UserError
from unrolled.run.allowed import require_trusted_sources
from unrolled.run.check import check
from unrolled.run.directory import RunDirectory
from unrolled.run.old_runs import NOT_USED_AFTERWARDS, require_known_classes
from unrolled.run.overrides import changed, read_command_line, typed_values

CHANGEABLE = (
    "data.source.path",
    "data.source.labels",
    "data.store_dir",
    "data.length",
    "data.eval_batch_size",
    "trainer.accelerator",
    "trainer.precision",
    "trainer.limit_test_batches",
)
"""Keys that another evaluation may change: none that would draw the test from training data."""


def evaluate(run_dir: Path, overrides: list[str], checkpoint: Path | None = None) -> dict[str, Any]:
    """Test the best checkpoint of a run on one process.

    With `data.hpo_val` the part of the validation set that it sets apart is judged, too, unless
    the data are changed.

    Args:
        run_dir: The run.
        overrides: Values to change, of the keys in `CHANGEABLE`.
        checkpoint: Another checkpoint than the best.

    Returns:
        What metrics.json has under `metrics`.

    Raises:
        UserError: When the run or the data is not usable.
    """
    run = RunDirectory.open(run_dir)
    require_known_classes(run, NOT_USED_AFTERWARDS)
    config = _changed(run.config(), overrides) if overrides else run.config()
    require_trusted_sources(run_dir, config)
    checkpoint = checkpoint or run.best_checkpoint()

    import lightning

    from unrolled.run.loading import load_run
    from unrolled.run.numerics import numerics
    from unrolled.run.predictions import named, tested
    from unrolled.run.store_folder import with_own_stores
    from unrolled.run.training import judge, quiet

    quiet()
    if not any(o.lstrip("+").startswith("data.store_dir=") for o in overrides):
        check({**config, "callbacks": {}, "logger": {}})
        config = with_own_stores(config, run)
    experiment, data, task = load_run(config, run, checkpoint)
    if not any(o.lstrip("+").startswith("data.source") for o in overrides):
        data.require_unchanged()
    data.require_usable(["test"])
    limits = {k: v for k, v in experiment.trainer.items() if k in ("limit_test_batches",)}
    trainer = lightning.Trainer(
        accelerator=experiment.trainer.get("accelerator", "auto"),
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **numerics(experiment.trainer),
        **limits,
    )
    with named(checkpoint, partial(tested, data)):
        trainer.test(task, datamodule=data, verbose=False)
    return judge(task, data)


def _changed(config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    line = read_command_line(overrides, needs_task=False)
    wrong = [
        key
        for key in line.values
        if not any(key == a or key.startswith(f"{a}.") for a in CHANGEABLE)
    ]
    if wrong:
        raise UserError(
            *(f"{key}: the run's own; evaluate can change {', '.join(CHANGEABLE)}"
              for key in wrong)
        )  # fmt: skip
    # Not built here, so that what has become of their classes does not matter.
    unused: dict[str, Any] = {"callbacks": {}, "logger": {}}
    complete = check(
        changed({**config, **unused}, typed_values(line)),
        lambda key: "command line" if ".".join(key) in line.values else "",
    )
    if any(key.startswith("data.") and key != "data.store_dir" for key in line.values):
        # What was set apart is a part of the run's own validation set.
        complete["data"].pop("hpo_val", None)
    return complete
