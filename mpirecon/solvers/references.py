"""The maps that particles are compared with, ready for the kernels: two at a time where the backend can."""

from __future__ import annotations

import numpy as np

from mpirecon.backend.protocol import Ability, Backend
from mpirecon.solvers.groups import MapOf, MapSet


class References:
    """At most two maps at once; one that is still wanted is not made ready again."""

    def __init__(self, backend: Backend, maps: MapSet, timings, together: bool = True) -> None:
        """together : whether both may be compared at once, as one grid; else ``grid`` gives either"""
        self._backend, self._maps, self._timings = backend, maps, timings
        self._held: list[MapOf | None] = [None, None]
        self._pair = backend.pair(maps.box) if together and Ability.PAIRS in backend.can else None
        self._single: list = [None, None]

    def bring(self, *wanted: MapOf) -> None:
        """Have these maps ready, on every rank; collective."""
        if self._pair is None:  # a grid that is not wanted any more would be beside those that are being made
            for place, held in enumerate(self._held):
                if held not in wanted:
                    self._held[place] = self._single[place] = None
        for made_of in wanted:
            if made_of in self._held:
                continue
            place = next(k for k in (0, 1) if self._held[k] not in wanted)
            with self._timings("reduce"):
                volume = self._maps.get(made_of)
            with self._timings("solve"):
                if self._pair is not None:
                    self._backend.set_reference(self._pair, place, volume)
                else:
                    self._single[place] = self._backend.reference(volume)
            self._held[place] = made_of

    def compare(self, wanted: list[MapOf], batch, bands, rotation=None) -> list[np.ndarray]:
        """The batch's statistics against each of these maps, (b, bands, 3) float64."""
        places = [self._held.index(made_of) for made_of in wanted]
        if self._pair is not None:
            both = self._backend.statistics(self._pair, batch, bands, rotation)
            return [both[k] for k in places]
        return [self._backend.statistics(self._single[k], batch, bands, rotation) for k in places]

    def grid(self, made_of: MapOf):
        """What the backend's kernels read of one of the maps."""
        return self._single[self._held.index(made_of)]
