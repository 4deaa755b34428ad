"""W&B's server: where it is, whether it answers, and whether this user may log there."""

from __future__ import annotations

import http.client
import netrc
import os
import ssl
from pathlib import Path
from urllib.parse import urlparse

SECONDS_TO_ANSWER = 2.0
"""How long to wait for a sign of the server before an online run goes offline."""


def reachable() -> bool:
    """Whether W&B's server answers; behind a proxy that can't be told, so yes.

    Any answer counts, also an error: what it means is for W&B to find out.
    """
    if any(name in os.environ for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    server = urlparse(_server())
    kind = http.client.HTTPConnection if server.scheme == "http" else http.client.HTTPSConnection
    connection = kind(server.hostname or "", server.port, timeout=SECONDS_TO_ANSWER)
    try:
        connection.request("GET", "/healthz")
        connection.getresponse()
    except (ssl.SSLCertVerificationError, http.client.BadStatusLine):
        return True
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def logged_in() -> bool:
    """Whether this user has a key for W&B's server; asks no network."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    for name in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        if name and (path := Path(name).expanduser()).is_file():
            try:
                return (
                    netrc.netrc(path).authenticators(urlparse(_server()).hostname or "") is not None
                )
            except (netrc.NetrcParseError, OSError):
                continue
    return False


def _server() -> str:
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
