"""Puts conf/ and sweeps/ into the wheel, beside the package's modules.

A build hook and not `force-include`, which would copy them into an editable installation too, where
they would hide every later change.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CarryConfigs(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the folders of config files to a standard wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Map each folder to its place in the package."""
        if version != "editable":
            for folder in ("conf", "sweeps"):
                source = Path(self.root) / folder
                build_data["force_include"][str(source)] = f"unrolled/{folder}"
