"""One acquisition listed twice: the newest processing stays."""

from __future__ import annotations

from collections.abc import Sequence

from bestpixel_gpu.catalog.scene import Scene

SAME_STRIP_SECONDS = 5.0
"""Strips of one acquisition start this close together in different processings."""


def merge_duplicates(scenes: Sequence[Scene]) -> tuple[list[Scene], list[tuple[Scene, str]]]:
    """Scenes with one of each acquisition, in their order; and the others with the reason.

    Duplicates share platform, tile and datatake, and their datastrips start within 5 s. Where a
    strip is unknown only different baselines make duplicates, because a pass may be cut into two
    items that each hold a part of the tile. Kept is the newest baseline, then the newest
    processing, then the greater id.
    """
    kept: dict[tuple[str, str], list[Scene]] = {}
    reasons: dict[int, str] = {}
    order = sorted(range(len(scenes)), key=lambda i: _preference(scenes[i]), reverse=True)
    for i in order:
        scene = scenes[i]
        rivals = kept.setdefault((scene.platform, scene.tile), [])
        better = next((k for k in rivals if _same(k, scene)), None)
        if better is None:
            rivals.append(scene)
        elif _identity(better) == _identity(scene):
            reasons[i] = "listed twice"
        else:
            reasons[i] = f"duplicate of {better.id}{_why(better, scene)}"
    return (
        [s for i, s in enumerate(scenes) if i not in reasons],
        [(scenes[i], reasons[i]) for i in sorted(reasons)],
    )


def _preference(scene: Scene) -> tuple[float, str, str, str]:
    return float(scene.baseline or 0), scene.generated, scene.id, scene.collection


def _identity(scene: Scene) -> tuple[str, str]:
    return scene.collection, scene.id


def _same(a: Scene, b: Scene) -> bool:
    if _identity(a) == _identity(b):
        return True
    if not (a.tile and a.datatake) or _take(a) != _take(b):
        return False
    if a.strip_start is None or b.strip_start is None:
        return bool(a.baseline and b.baseline) and a.baseline != b.baseline
    return abs((a.strip_start - b.strip_start).total_seconds()) <= SAME_STRIP_SECONDS


def _take(scene: Scene) -> list[str]:
    """Satellite and start of the datatake; the orbit number that follows is not always known."""
    return scene.datatake.split("_")[:2]


def _why(better: Scene, scene: Scene) -> str:
    if better.baseline != scene.baseline:
        return f": baseline {better.baseline or 'unknown'} over {scene.baseline or 'unknown'}"
    if better.generated != scene.generated:
        return ": processed later"
    return ""
