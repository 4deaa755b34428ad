"""The command `unrolled` and its verbs: parse and hand over, nothing else."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from unrolled import __version__
from unrolled.errors import UserError, disk_problem
from unrolled.run.process import run_process
from unrolled.terminal import say, say_error

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(
    help="Experiments with sequence models on event data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# What Hydra takes has no fixed options; `train --help` is Hydra's own.
_OVERRIDES = {"ignore_unknown_options": True, "allow_extra_args": True}
_HYDRA = {**_OVERRIDES, "help_option_names": []}
RunDir = Annotated[Path, typer.Argument(help="A run directory.", show_default=False)]
Allow = Annotated[
    list[str] | None,
    typer.Option(help="A package of yours that the run's config may name.", show_default=False),
]
AllowQuery = Annotated[
    bool, typer.Option("--allow-query", help="Run the query that the run's config has.")
]


def main() -> NoReturn:
    """The entry point of `unrolled`."""
    run_process(lambda: guarded(lambda: app(standalone_mode=True)))


def train() -> NoReturn:
    """The entry point of `train.py`."""
    from unrolled.run.session import train as run_session

    run_process(lambda: guarded(lambda: run_session(sys.argv[1:], shlex.join(sys.argv))))


@app.command("train", context_settings=_HYDRA, add_help_option=False)
def train_command(context: typer.Context) -> None:
    """Train a model and test its best checkpoint; `unrolled train --help` lists the choices."""
    from unrolled.run.session import train as run_session

    arguments = list(context.args)
    raise typer.Exit(run_session(arguments, shlex.join(["unrolled", "train", *arguments])))


@app.command("check", context_settings=_OVERRIDES)
def check_command(context: typer.Context) -> None:
    """Compose and check a config, show it, run nothing: `unrolled check task=bitcount`.

    Of a sweep file, `unrolled check sweeps/bitcount.yaml`, every corner of its space.
    """
    if any(a.endswith((".yaml", ".yml")) and "=" not in a for a in context.args):
        from unrolled.sweep.command import check_file

        say(check_file(list(context.args)))
        return
    import yaml

    from unrolled.run.allowed import allow
    from unrolled.run.compose import compose
    from unrolled.run.overrides import read_command_line

    line = read_command_line(list(context.args))
    allow(line.allowed)
    composed = compose(line)
    say(yaml.safe_dump(composed.config, sort_keys=False).rstrip("\n"))


@app.command("prepare", context_settings=_OVERRIDES)
def prepare_command(context: typer.Context) -> None:
    """Make the event store of a log: `unrolled prepare data=clickstream`.

    Training makes it by itself where it is missing. What is printed says what was read, what was
    left out and why, and where the store is; `data=events data.source.path=...` takes your own log.
    """
    from unrolled.run.allowed import allow
    from unrolled.run.compose import compose
    from unrolled.run.launch import prepare_data
    from unrolled.run.overrides import read_command_line

    arguments = list(context.args)
    if not any(a.startswith(("task=", "experiment=")) for a in arguments):
        arguments.append("task=purchase_intent")
    line = read_command_line(arguments)
    allow(line.allowed)
    if prepare_data(compose(line).config, tell=True) is None:
        raise UserError("these data are generated as they are needed; there is no log to prepare")


@app.command("evaluate", context_settings={"ignore_unknown_options": True})
def evaluate_command(
    run_dir: RunDir,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="data.source.path=FILE and the like.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Another checkpoint than the run's best.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the scores as JSON too.")] = None,
    allow: Allow = None,
    allow_query: AllowQuery = False,
) -> None:
    """Test a run's best checkpoint again, also on other data."""
    import json

    from unrolled.data.outputs import require_output, write_whole
    from unrolled.run.allowed import allow as allow_packages
    from unrolled.run.directory import RunDirectory
    from unrolled.run.evaluate import evaluate
    from unrolled.run.show import show_scores

    allow_packages(allow or [], query=allow_query)
    if output is not None:
        given = [Path(text.partition("=")[2]) for text in overrides or []]
        require_output(output, [".json"], [*given, *RunDirectory.open(run_dir).files_to_keep()])
    scores = evaluate(run_dir, overrides or [], checkpoint)
    show_scores(scores)
    if output is not None:
        text = json.dumps(scores, indent=2) + "\n"
        write_whole(output, lambda partial: partial.write_text(text))


@app.command("predict")
def predict_command(
    run_dir: RunDir,
    input: Annotated[
        Path | None,
        typer.Option(
            help="File with new sequences: Parquet, CSV, TSV or Arrow.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="File for the predictions: .parquet, .csv, .csv.gz, .tsv, .tsv.gz, .arrow, "
            ".feather.",
            show_default=False,
        ),
    ] = None,
    sequence: Annotated[
        str | None, typer.Option(help="One sequence, typed: 01101...", show_default=False)
    ] = None,
    allow: Allow = None,
    allow_query: AllowQuery = False,
) -> None:
    """Predict new sequences with a run's best checkpoint: a file's, or one that is typed."""
    from unrolled.run.allowed import allow as allow_packages
    from unrolled.run.predict import predict, predict_one

    allow_packages(allow or [], query=allow_query)
    if sequence is not None and input is None and output is None:
        for name, value in predict_one(run_dir, sequence).items():
            say(f"{name}: {value}")
    elif sequence is None and input is not None and output is not None:
        say(f"{predict(run_dir, input, output):,} predictions in {output}")
    else:
        raise UserError("give --input FILE and --output FILE, or --sequence TEXT")


@app.command("sweep")
def sweep_command(
    file: Annotated[Path, typer.Argument(help="A sweep file: sweeps/bitcount.yaml.")],
    workers: Annotated[int, typer.Option(min=1, help="Trials at the same time.")] = 1,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of trials; if not given the file's run_cap, the whole grid, or 20."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the folder runs/sweeps/NAME; if not given the file's name."),
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Optuna's storage URL instead of a journal in the folder.")
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(min=0, help="Seconds allowed for a trial; 0 removes the limit.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Random seed for drawing trials; 0 if not given.")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="How method: bayes chooses trials: tpe, or gp (needs scipy)."),
    ] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Show how far the sweep is, and start nothing.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run failed trials again, from their start.")
    ] = False,
    config_dir: Annotated[
        Path | None, typer.Option(help="Folder with your own config files.", show_default=False)
    ] = None,
    allow: Allow = None,
) -> None:
    """Run a sweep, go on with it, or join it: the same command, also while it runs elsewhere.

    The file is W&B's own: `wandb sweep` takes it, too.
    """
    from unrolled.sweep.command import run_sweep

    extra = [f"--config-dir={config_dir.absolute()}"] if config_dir else []
    extra += [f"--allow={package}" for package in allow or []]
    code = run_sweep(
        file, workers, trials, name, extra, status=status, retry_failed=retry_failed,
        storage=storage, time_limit=time_limit, seed=seed, sampler=sampler,
    )  # fmt: skip
    raise typer.Exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        say(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Experiments with sequence models on event data."""


def guarded(work: Callable[[], int | None]) -> int:
    """Run a command; a mistake of the user becomes its message and exit code 2."""
    from unrolled.run.allowed import leave_out_working_folder
    from unrolled.run.interruption import taken

    leave_out_working_folder()
    for number in taken() - {signal.SIGINT}:
        # As Ctrl-C: a job that is told to end while it prepares its data may be started again.
        signal.signal(number, signal.default_int_handler)
    try:
        return work() or 0
    except UserError as error:
        for problem in error.problems:
            say(f"error: {problem}", stderr=True)
        return 2
    except OSError as error:
        if (told := disk_problem(error)) is None:
            raise
        say_error(told)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    main()
