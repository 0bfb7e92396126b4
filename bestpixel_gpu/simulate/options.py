"""What a served archive can be told, and where its catalogues stand."""

from __future__ import annotations

from dataclasses import dataclass

from bestpixel_gpu.simulate.faults import Rules

ROOTS = {"earth-search": "/es/v1", "earth-search-c1": "/es/v1"} | dict.fromkeys(
    ("pc", "hls", "mcd43a4", "landsat"), "/pc/api/stac/v1"
)
"""Path of the STAC root by endpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How the server behaves; all of it can be changed while it runs."""

    latency_ms: float = 0.0
    """Added to every answer."""
    mbit: float = 0.0
    """Rate of the one link that all answers share, Mbit/s; 0: unlimited."""
    page: int | None = None
    """Largest search page, however large a page the client asks for."""
    require_sas: bool = False
    """Files below ``/blob/`` need a token: 409 without one, 403 with a bad one."""
    sas_ttl: float = 3600.0
    """Seconds a token lives; its end is rounded up to a whole second."""
    sas_key: str = "1"
    """Signs the tokens; changing it makes all earlier ones invalid."""
    faults: Rules = ()
    """What goes wrong: :data:`bestpixel_gpu.simulate.faults.Rules`."""
    seed: int = 1
    """Of the faults drawn by lot."""
    log: bool = False
    """Whether the counters list every file range."""
