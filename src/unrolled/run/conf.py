"""Where the config files are, and which choices they offer."""

from __future__ import annotations

from pathlib import Path

import unrolled

PRIMARY = "train"
"""The config file that a training run starts from."""


def conf_dir() -> Path:
    """The folder of the config files: inside the installed package, or beside `src/`."""
    package = Path(unrolled.__file__).parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"


def search_path(config_dir: Path | None) -> list[Path]:
    """The folders of config files, the user's own first."""
    return [conf_dir()] if config_dir is None else [config_dir, conf_dir()]


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
