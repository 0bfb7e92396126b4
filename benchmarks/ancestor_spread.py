"""The uncertainty of a band from all observations of a pixel: as `bestpixel` 0.3.0 makes it, and right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ancestor_pixels import NODATA, Look, Mask, Reals, Source, View, look, nearest
from numpy.typing import NDArray

SCORE = np.full(256, NODATA)
SCORE[[4, 5, 6, 11]], SCORE[7], SCORE[[2, 3]] = 0, 1, 2


@dataclass(frozen=True)
class Observations:
    """One band of every scene of a composite."""

    looks: list[Look]
    scores: NDArray[np.int64]
    """(scene, row, column)."""
    edges: NDArray[np.bool_]
    """Where a scene's fill cannot be told from ground, so that it is not used here."""

    def reasons(
        self, before: Reals, have: Reals, old: Reals, new: Reals, quality: NDArray[np.uint16], lost: Mask
    ) -> dict[str, Mask]:
        """Where each defect is among them, and gives both uncertainties within 1 DN."""
        values, right, empty = (
            np.array([getattr(u, n) for u in self.looks]) for n in ("value", "right", "empty")
        )
        theirs = (self.scores != NODATA) & (values != NODATA)
        ours = (self.scores == quality) & (right != NODATA) & ~empty & ~self.edges
        modelled = (np.abs(uncertainty(values, theirs, old) - before) <= 1) & (
            np.abs(uncertainty(right, ours, new) - have) <= 1
        )

        def among(name: str) -> Mask:
            there = np.array([getattr(u, name) for u in self.looks]) & (self.scores != NODATA)
            return np.asarray(modelled & there.any(axis=0))

        return {
            "FIX-2": among("cut"),
            "FIX-3": among("shifted"),
            "FIX-4": among("mixed") | (modelled & (lost | self.edges.any(axis=0))),
            "FIX-27": modelled & (theirs != ours).any(axis=0),
            "FIX-16": among("tie") & (np.abs(before - have) <= 1),
        }


def observed(
    view: View, sources: Sequence[Source], masks: Sequence[Source], edges: Mapping[int, Mask]
) -> Observations:
    """Look at every scene alone."""
    everywhere = np.zeros(view.shape, np.int64)
    return Observations(
        [look(view, [source], everywhere) for source in sources],
        np.array([SCORE[nearest(view, mask)] for mask in masks]),
        np.array([edges.get(k, np.zeros(view.shape, bool)) for k in range(len(masks))]),
    )


def uncertainty(values: NDArray[np.int64], counted: NDArray[np.bool_], winner: Reals) -> Reals:
    """``max(sqrt(variance + (0.02 winner)^2), 10)``; NODATA where nothing won."""
    n = counted.sum(axis=0)
    mean = np.where(counted, values, 0).sum(axis=0) / np.maximum(n, 1)
    squares = np.where(counted, (values - mean) ** 2, 0).sum(axis=0)
    variance = np.where(n >= 2, squares / np.maximum(n - 1, 1), 0)
    value = np.maximum(np.sqrt(variance + (0.02 * np.asarray(winner, np.float64)) ** 2), 10)
    return np.where(np.asarray(winner) == NODATA, float(NODATA), value)
