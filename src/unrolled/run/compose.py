"""One composition: from the command line to a complete, checked config."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from unrolled.errors import UserError, did_you_mean
from unrolled.run.check import check, with_defaults
from unrolled.run.conf import PRIMARY, conf_dir, search_path
from unrolled.run.origins import Origins
from unrolled.run.other_choices import require_single_choices, without_others
from unrolled.run.overrides import CommandLine
from unrolled.run.typed_paths import for_hydra

_NO_LOGGING = ["++hydra.job_logging.root=null", "++hydra.hydra_logging.root=null"]
"""Whatever a config file says: Python's logging calls what its configuration names."""


@dataclass(frozen=True)
class Composed:
    """A checked config and where it came from.

    Args:
        config: Complete, plain data.
        overrides: What was typed for it, one element a key.
    """

    config: dict[str, Any]
    overrides: list[str]


def compose(line: CommandLine) -> Composed:
    """Compose and check a single config, without running anything.

    Raises:
        UserError: With every problem that was found.
    """
    folder = str(line.config_dir) if line.config_dir else None
    with (
        _translated(),
        hydra.initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="unrolled"),
    ):
        searched = [f"hydra.searchpath=[{for_hydra(f'file://{folder}')}]"] if folder else []
        cfg = hydra.compose(PRIMARY, [*searched, *line.overrides], return_hydra_config=True)
        choices = dict(cfg.hydra.runtime.choices)
        OmegaConf.set_struct(cfg, False)
        del cfg["hydra"]
        return finish(cfg, line, choices, line.overrides)


def run_hydra(line: CommandLine, job: Callable[[DictConfig], None]) -> None:
    """Let Hydra compose and call `job`, once, or once for every combination of a multirun.

    Raises:
        UserError: When Hydra can't compose.
    """
    # Otherwise Hydra prints errors in its own way and exits with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [sys.argv[0], *line.flags, *line.overrides]
    sys.argv += [] if line.shows else _NO_LOGGING
    with _translated():
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=PRIMARY)(job)()


def in_job(cfg: DictConfig, line: CommandLine) -> Composed:
    """Complete and check the config that Hydra composed for a job.

    Raises:
        UserError: With every problem that was found.
    """
    hydra_config = HydraConfig.get()
    overrides = list(hydra_config.overrides.task)
    return finish(cfg, line, dict(hydra_config.runtime.choices), overrides)


def finish(
    cfg: DictConfig, line: CommandLine, choices: dict[str, Any], overrides: list[str]
) -> Composed:
    """Resolve, complete and check."""
    choices = {g: c for g, c in choices.items() if not g.startswith("hydra/")}
    folders = search_path(line.config_dir)
    require_single_choices(choices, folders)
    origin = Origins(line, choices, folders)
    try:
        allowed = frozenset(line.allowed)
        composed = OmegaConf.to_container(cfg, resolve=False)
        assert isinstance(composed, dict)
        own = without_others(
            {str(k): v for k, v in composed.items()}, choices, set(line.values), folders, allowed
        )
        filled = with_defaults(own, allowed)
        plain = OmegaConf.to_container(OmegaConf.create(filled), resolve=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "config"
        raise UserError(f"{key}: {str(error).splitlines()[0]}") from error
    assert isinstance(plain, dict)
    plain["name"] = plain.get("name") or choices.get("task")
    config = check({str(k): v for k, v in plain.items()}, origin, allowed)
    typed = [o.removeprefix("++") for o in overrides]
    return Composed(config, typed)


@contextmanager
def _translated() -> Iterator[None]:
    """Hydra's and omegaconf's errors as ours: their first lines, without a traceback."""
    try:
        yield
    except MissingConfigException as error:
        name, options = error.missing_cfg_file, error.options
        if not isinstance(name, str) or not options:
            raise UserError(str(error).strip().partition("\n")[0]) from error
        group, _, choice = name.rpartition("/")
        raise UserError(
            f"{group}={choice}: no such {group}; {did_you_mean(choice, options)}"
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{mark.name}:{mark.line + 1}: " if mark else ""
        raise UserError(f"{place}not valid YAML: {getattr(error, 'problem', error)}") from error
    except (HydraException, OmegaConfBaseException) as error:
        lines = [text for text in str(error).splitlines() if text.strip()]
        raise UserError("\n".join(lines[:4])) from error
