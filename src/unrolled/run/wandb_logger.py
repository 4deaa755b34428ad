"""Weights & Biases: offline unless the user is logged in, never waiting, never failing a run."""

from __future__ import annotations

import logging
import netrc
import os
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger

log = logging.getLogger(__name__)

SECONDS_TO_ANSWER = 1
"""How long to wait for a sign of the server before an online run goes offline."""
SECONDS_TO_START = 10
"""How long a server that answers may take to open the run."""


class WandbLogger(LightningWandbLogger):
    """Lightning's logger, which goes silent instead of failing the run when W&B breaks."""

    broken = False

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Hand values to W&B, as long as it takes them."""
        self._guarded(lambda: super(WandbLogger, self).log_metrics(metrics, step))

    def save(self) -> None:
        """Nothing to do but what Lightning does."""
        self._guarded(super().save)

    def finalize(self, status: str) -> None:
        """End the W&B run."""
        self._guarded(lambda: super(WandbLogger, self).finalize(status))

    def _guarded(self, action: Callable[[], None]) -> None:
        if self.broken:
            return
        try:
            action()
        except Exception as error:
            self.broken = True
            log.warning("W&B has stopped (%s); the run goes on without it", error)


def wandb_logger(
    run_dir: Path,
    config: dict[str, Any],
    project: str = "unrolled",
    mode: Literal["auto", "online", "offline"] = "auto",
    entity: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
) -> Logger | None:
    """A logger to W&B, or None where W&B does not start.

    Args:
        run_dir: The run directory; its `wandb/` takes the files.
        config: The run's config, as W&B shows it.
        project: Where the run appears.
        mode: `auto` is online for those who are logged in, else offline.
        entity: User or team; None takes your own.
        group: Runs with the same group are shown together.
        tags: Shown beside the run.
    """
    if os.environ.get("RANK", "0") != "0":
        return None
    wanted: str = mode
    if mode == "auto":
        wanted = os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    settings = {
        "dir": str(run_dir),
        "project": project,
        "entity": entity,
        "group": group,
        "tags": list(tags),
        # The same run goes on after a resume; a moved directory keeps its identity.
        "id": run_id(run_dir),
        "name": run_dir.name,
        "resume": "allow",
        "config": config,
    }
    if wanted == "online" and not reachable():
        log.warning("W&B's server does not answer: the run is logged offline; see `wandb sync`")
        wanted = "offline"
    for attempt in dict.fromkeys([wanted, "offline"]):
        try:
            return WandbLogger(experiment=_start(attempt, settings))
        except Exception as error:
            log.warning("W&B did not start %s (%s)", attempt, str(error).partition("\n")[0])
    log.warning("The run goes on without W&B; its values are in metrics.csv all the same")
    return None


def _start(mode: str, settings: dict[str, Any]) -> Any:
    import wandb

    return wandb.init(
        mode=mode,  # type: ignore[arg-type]  # WANDB_MODE holds whatever the user wrote.
        **settings,
        settings=wandb.Settings(silent=True, console="off", init_timeout=SECONDS_TO_START),
    )


def run_id(run_dir: Path) -> str:
    """The W&B run id, written into the run directory once."""
    path = run_dir / "wandb" / "run_id.txt"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(secrets.token_hex(4) + "\n")
    return path.read_text().strip()


def reachable() -> bool:
    """Whether something listens at W&B's server; behind a proxy that can't be told, so yes."""
    if any(name in os.environ for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    server = urlparse(_server())
    port = server.port or (80 if server.scheme == "http" else 443)
    try:
        socket.create_connection((server.hostname or "", port), SECONDS_TO_ANSWER).close()
    except OSError:
        return False
    return True


def _server() -> str:
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")


def logged_in() -> bool:
    """Whether this user has a key for W&B's server; asks no network."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    for name in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        if name and (path := Path(name).expanduser()).is_file():
            try:
                return (
                    netrc.netrc(path).authenticators(urlparse(_server()).hostname or "") is not None
                )
            except netrc.NetrcParseError:
                continue
    return False
