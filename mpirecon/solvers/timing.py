"""Where a rank's time goes, by phase."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager


class Timings:
    """``with timings("read"):`` adds the block's wall seconds to a phase; an inner block is not counted in the outer."""

    def __init__(self, tell: Callable[[str], None] = lambda phase: None) -> None:
        """tell : called with the phase whenever it changes"""
        self.seconds: dict[str, float] = {}
        self._inner: list[float] = []
        self._phases: list[str] = []
        self._tell = tell

    @contextmanager
    def __call__(self, phase: str):
        self._inner.append(0.0)
        self._phases.append(phase)
        self._tell(phase)
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            inside = self._inner.pop()
            self.seconds[phase] = self.seconds.get(phase, 0.0) + elapsed - inside
            if self._inner:
                self._inner[-1] += elapsed
            self._phases.pop()
            self._tell(self._phases[-1] if self._phases else "between phases")
