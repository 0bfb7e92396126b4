"""The goals G1 to G4 beside what a GPU check found."""

from __future__ import annotations

from typing import Any

from gpu_kernels import GOALS

INFLATE_GB_S = {2000: 15.0, 300: 15.0, 64: 5.0}
"""Decoded, of reflectance in tiles of 512 x 512, by tiles in flight."""
TIMES_NVCOMP = 2.0
SHARE_OF_COPY = 0.6
TIMES_CPU = 5.0
REST_OVER_INFLATE = 0.15


def verdict(found: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each goal: measured and met, ``None`` where it was not measured."""
    return [*_inflate(found), *_kernels(found), *_path(found), _same(found)]


def _row(row: str, goal: str, measured: Any, met: bool | None) -> dict[str, Any]:
    return {"row": row, "goal": goal, "measured": measured, "met": None if measured is None else met}


def _inflate(found: dict[str, Any]) -> list[dict[str, Any]]:
    rates = {
        (r["streams"], r["way"]): None if r["wrong"] else r["gb_s"]
        for r in found.get("inflate", ())
        if (r["kind"], r["size"]) == ("reflectance", 512)
    }
    out = []
    for n, least in INFLATE_GB_S.items():
        ours, nvcomp = rates.get((n, "routed")), rates.get((n, "nvcomp"))
        out.append(_row("G1", f"inflate, {n} tiles: >= {least:g} GB/s", ours, (ours or 0) >= least))
        times = ours / nvcomp if ours and nvcomp else None
        goal = f"inflate, {n} tiles: >= {TIMES_NVCOMP:g} x nvCOMP"
        out.append(_row("G1", goal, times, (times or 0) >= TIMES_NVCOMP))
    return out


def _kernels(found: dict[str, Any]) -> list[dict[str, Any]]:
    shares = {r["operation"]: r["share_of_copy"] for r in found.get("kernels", ())}
    return [
        _row(
            "G2", f"{n}: >= {SHARE_OF_COPY:g} of a copy", shares.get(n), (shares.get(n) or 0) >= SHARE_OF_COPY
        )
        for n in GOALS
    ]


def _path(found: dict[str, Any]) -> list[dict[str, Any]]:
    path = found.get("path", {})
    times, rest = path.get("cpu_over_ours"), path.get("timeline", {}).get("rest_over_inflate")
    beside = f"the Numba engine on {path.get('cores', '?')} cores"
    rest_goal = f"everything but inflate: <= {REST_OVER_INFLATE:g} of inflate"
    return [
        _row("G3", f"composite: >= {TIMES_CPU:g} x {beside}", times, (times or 0) >= TIMES_CPU),
        _row("G3", rest_goal, rest, rest is not None and rest <= REST_OVER_INFLATE),
    ]


def _same(found: dict[str, Any]) -> dict[str, Any]:
    """Composites that differ from the CPU's."""
    seen = [c["ok"] for c in found["checks"] if c["what"].startswith("composite") and c["ok"] is not None]
    wrong = seen.count(False) if seen else None
    return _row("G4", f"composites that differ in a byte, of {len(seen)}: 0", wrong, wrong == 0)
