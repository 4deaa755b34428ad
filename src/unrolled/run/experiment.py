"""The whole config as one signature, and the objects that it describes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeInt

from unrolled.errors import UserError
from unrolled.run.targets import find_target

HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_"}
"""Keys of a node that are not arguments of its class."""

if TYPE_CHECKING:
    from unrolled.data.module import SequenceData
    from unrolled.data.schema import Schema
    from unrolled.tasks.base import SequenceTask


class Experiment:
    """An experiment: what is asked, of which data, by which model, trained how.

    Args:
        task: The LightningModule.
        data: The LightningDataModule.
        embedding: From features to the encoder's input.
        model: The encoder.
        readout: From the encoder's outputs to one vector.
        head: From the vector to the prediction, with its loss.
        optimizer: Of all parameters.
        trainer: Lightning's trainer.
        scheduler: Of the learning rate; moves at every step.
        regularizer: Penalties of the encoder's outputs, by name.
        logger: Loggers by name, beside metrics.csv.
        callbacks: Callbacks by name.
        name: What the runs are called, the folder they go into; the choice of the task by default.
        seed: Of the weights, of the order of the batches and of synthetic data.
        run_dir: Where the run goes; None makes a new folder below `runs/`.
        resume: A run directory to go on with.
        test: Whether to test the best checkpoint at the end.
        restarts: How often torchrun starts the processes again, from the last checkpoint, after one
            of them has died.
    """

    def __init__(
        self,
        task: dict[str, Any],
        data: dict[str, Any],
        embedding: dict[str, Any],
        model: dict[str, Any],
        readout: dict[str, Any],
        head: dict[str, Any],
        optimizer: dict[str, Any],
        trainer: dict[str, Any],
        scheduler: dict[str, Any] | None = None,
        regularizer: dict[str, Any] | None = None,
        logger: dict[str, Any] | None = None,
        callbacks: dict[str, Any] | None = None,
        name: str | None = None,
        seed: int = 0,
        run_dir: Path | None = None,
        resume: str | None = None,
        test: bool = True,
        restarts: NonNegativeInt = 0,
    ) -> None:
        self.task = task
        self.data = data
        self.embedding = embedding
        self.model = model
        self.readout = readout
        self.head = head
        self.optimizer = optimizer
        self.trainer = trainer
        self.scheduler = scheduler or None
        self.regularizer = regularizer or {}
        # `callbacks.progress=null` goes without.
        self.logger = {name: part for name, part in (logger or {}).items() if part is not None}
        self.callbacks = {name: p for name, p in (callbacks or {}).items() if p is not None}
        self.name = name
        self.seed = seed
        self.run_dir = run_dir
        self.test = test
        self.restarts = restarts

    def build_data(self) -> SequenceData:
        """The LightningDataModule."""
        data: SequenceData = build(self.data, "data")
        return data

    def build_task(self, data: SequenceData, *, for_training: bool = True) -> SequenceTask:
        """The LightningModule, its parts fitted to each other and to the data.

        Args:
            data: The data module.
            for_training: Whether to look at the training targets where a head wants their counts;
                a checkpoint has them.

        Raises:
            UserError: When the task can't be asked of these data.
        """
        from unrolled.models.readout import EveryStep
        from unrolled.models.sequence import SequenceModel
        from unrolled.tasks.base import Reinforced

        schema = data.schema
        embedding = build(self.embedding, "embedding", schema=schema)
        encoder = build(self.model, "model", input_size=embedding.output_size)
        readout = build(self.readout, "readout", input_size=encoder.output_size)
        head = build(
            self.head,
            "head",
            input_size=readout.output_size,
            **_of_target(self.head, data, for_training),
            **wanted(self.head, _of_items(embedding, schema)),
        )
        task: SequenceTask = build(
            self.task,
            "task",
            model=SequenceModel(embedding, encoder, readout, head),
            optimizer=build({**self.optimizer, "_partial_": True}, "optimizer"),
            scheduler=build({**self.scheduler, "_partial_": True}, "scheduler")
            if self.scheduler
            else None,
            regularizers=[build(n, f"regularizer.{k}") for k, n in self.regularizer.items()],
        )
        task.check_schema(schema)
        if isinstance(encoder, Reinforced) and schema.per_step and isinstance(readout, EveryStep):
            raise UserError(
                f"model: {type(encoder).__name__} learns from one reward a sequence; these data "
                "have a target for each step. Use another model, or readout=last"
            )
        return task


def _of_target(
    node: dict[str, Any], data: SequenceData, for_training: bool = True
) -> dict[str, Any]:
    """What a head is told of the target.

    Raises:
        UserError: When the head is for another kind of target.
    """
    schema = data.schema
    known: dict[str, Any] = {"num_classes": schema.num_classes}
    if schema.num_classes is None:
        known = {"target_mean": schema.target_mean, "target_std": schema.target_std}
    elif for_training and "class_counts" in signature_of(node):
        known["class_counts"] = data.class_counts()
    elif for_training and "train_targets" in signature_of(node):
        known["train_targets"] = data.train_targets()
    parameters = signature_of(node)
    kind = node["_target_"].rpartition(".")[2]
    asks_of_events = {"item_embedding", "train_targets"} & set(parameters)
    if asks_of_events and schema.target_feature is None:
        raise UserError(
            f"head: {kind} asks what comes next in an event log, of which these data are none "
            "(or have another target); it is for task=next_item and task=next_event"
        )
    for name in ("num_classes", "target_mean"):
        if name in parameters and name not in known:
            raise UserError(
                f"head: {kind} predicts classes, the target of these data is a real number; "
                "use head=real"
                if name == "num_classes"
                else f"head: {kind} predicts real numbers, the target of these data is one of "
                f"{schema.num_classes} classes; use head=classification or head=regression"
            )
    return wanted(node, known)


def _of_items(embedding: Any, schema: Schema) -> dict[str, Any]:
    """The vectors of the items that are asked for, where they are embedded features."""
    table = getattr(embedding, "table", None)
    if table is None or schema.target_feature is None:
        return {}
    return {"item_embedding": table(schema.target_feature)}


def wanted(node: dict[str, Any], supplied: dict[str, Any]) -> dict[str, Any]:
    """Those of the supplied arguments that a node's class takes and its config does not set."""
    names = signature_of(node)
    return {name: value for name, value in supplied.items() if name in names and name not in node}


def signature_of(node: dict[str, Any]) -> Mapping[str, inspect.Parameter]:
    """The arguments of a node's class or function.

    Raises:
        UserError: When a config may not name it.
    """
    try:
        return inspect.signature(find_target(node["_target_"])).parameters
    except UserError as error:
        raise UserError(f"_target_: {error}") from None


def build(node: dict[str, Any], key: str, **supplied: Any) -> Any:
    """The object that a config node describes, nested nodes first.

    Args:
        node: With `_target_` and its arguments; with `_partial_` a function that makes the object.
        key: The node's place in the config, for messages.
        **supplied: Arguments that no config sets.

    Raises:
        UserError: When a config may not name the class, or the class refuses its arguments.
    """
    try:
        target = find_target(node["_target_"])
    except UserError as error:
        raise UserError(f"{key}._target_: {error}") from None
    arguments = {k: _build_nested(v, f"{key}.{k}") for k, v in node.items() if k not in HYDRA_KEYS}
    if node.get("_partial_"):
        return functools.partial(target, **arguments, **supplied)
    try:
        return target(**arguments, **supplied)
    except UserError:
        raise
    except (ValueError, TypeError, RuntimeError, ArithmeticError, MemoryError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{key}: {node['_target_']}: {reason}") from error


def _build_nested(value: Any, key: str) -> Any:
    if isinstance(value, list):
        return [_build_nested(v, key) for v in value]
    if not isinstance(value, dict):
        return value
    if "_target_" in value:
        return build(value, key)
    return {k: _build_nested(v, f"{key}.{k}") for k, v in value.items()}
