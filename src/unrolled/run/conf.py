"""Where the config files are, and which choices they offer."""

from __future__ import annotations

from pathlib import Path

import unrolled
from unrolled.errors import UserError

PRIMARY = "train"
"""The config file that a training run starts from."""

ONE_CHOICE = (
    "task", "data", "embedding", "model", "readout", "head", "optimizer", "scheduler", "trainer",
)  # fmt: skip
"""The groups of which a run has one choice. Of several, Hydra would merge the files, and the last
would win; loggers, callbacks, regularizers, experiments and debug settings add up."""


def conf_dir() -> Path:
    """The folder of the config files: inside the installed package, or beside `src/`."""
    package = Path(unrolled.__file__).parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"


def search_path(config_dir: Path | None) -> list[Path]:
    """The folders of config files, the user's own first."""
    return [conf_dir()] if config_dir is None else [config_dir, conf_dir()]


def require_one(group: str, chosen: object, where: str = "") -> None:
    """Refuse several choices of a group of which a run has one.

    Args:
        group: Its name.
        chosen: A name, or a list of names.
        where: The file that chooses, for the message.

    Raises:
        UserError: With the way to a run with each.
    """
    if group in ONE_CHOICE and isinstance(chosen, list) and len(chosen) > 1:
        names = ",".join(map(str, chosen))
        raise UserError(
            f"{where + ': ' if where else ''}{group}=[{names}]: a run has one {group}; for a run "
            f"with each of them: -m {group}={names}"
        )


def choices(group: str, folders: list[Path]) -> list[str]:
    """The choices of a group, such as `lstm`, `gru`, `rnn` for `model`."""
    found = {f.stem for folder in folders for f in (folder / group).glob("*.yaml")}
    return sorted(found)


def groups(folders: list[Path]) -> list[str]:
    """The groups that can be chosen from."""
    return sorted(
        {f.name for folder in folders for f in folder.iterdir() if f.is_dir() and any(f.iterdir())}
    )


def find_file(group: str, choice: str, folders: list[Path]) -> Path | None:
    """The file of a choice; `group` is empty for the primary config."""
    for folder in folders:
        path = folder / group / f"{choice}.yaml"
        if path.is_file():
            return path
    return None
