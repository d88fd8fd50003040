"""Where a rank's time goes, by phase, and when."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager

#: more spans than this are joined two by two: a timeline, not a trace
MOST_SPANS = 600


class Timings:
    """``with timings("read"):`` adds the block's wall seconds to a phase; an inner block is not counted in the outer.

    seconds : phase → s
    spans : of the outermost blocks, [start, end, {phase: s}] in seconds since `origin` (Unix time)
    """

    def __init__(self, on_phase: Callable[[str], None] = lambda phase: None, origin: float | None = None) -> None:
        """on_phase : called with the phase whenever it changes · origin : when the first began, Unix time; now if left
        out"""
        self.seconds: dict[str, float] = {}
        self.spans: list[list] = []
        now = time.time()
        self.origin = now if origin is None else origin
        self._zero = time.perf_counter() - (now - self.origin)
        self._inner: list[float] = []
        self._within: dict[str, float] = {}
        self._phases: list[str] = []
        self._on_phase = on_phase

    @contextmanager
    def __call__(self, phase: str):
        self._inner.append(0.0)
        self._phases.append(phase)
        self._on_phase(phase)
        start = time.perf_counter()
        try:
            yield
        finally:
            end = time.perf_counter()
            own = end - start - self._inner.pop()
            self.seconds[phase] = self.seconds.get(phase, 0.0) + own
            self._within[phase] = self._within.get(phase, 0.0) + own
            if self._inner:
                self._inner[-1] += end - start
            else:
                self._add_span(start - self._zero, end - self._zero)
            self._phases.pop()
            self._on_phase(self._phases[-1] if self._phases else "between phases")

    def fill(self, phase: str) -> None:
        """Count as this phase whatever has passed since `origin` outside of phases, none of which may be under way."""
        end, gaps = 0.0, []
        for span in [*self.spans, [time.perf_counter() - self._zero]]:
            if span[0] > end:
                gaps.append([end, span[0], {phase: span[0] - end}])
            end = max(end, *span[:2])
        self.spans = sorted([*self.spans, *gaps], key=lambda span: span[0])
        self.seconds[phase] = self.seconds.get(phase, 0.0) + sum(b - a for a, b, _ in gaps)

    def _add_span(self, start: float, end: float) -> None:
        self.spans.append([start, end, self._within])
        self._within = {}
        if len(self.spans) > MOST_SPANS:
            pairs = zip(self.spans[::2], self.spans[1::2])
            self.spans = [_joined(a, b) for a, b in pairs] + self.spans[len(self.spans) // 2 * 2 :]

    def timeline(self) -> dict:
        """For a rank's log: ``origin`` and ``spans``, to the millisecond."""
        spans = [[round(start, 3), round(end, 3), {phase: round(s, 4) for phase, s in within.items()}]
                 for start, end, within in self.spans]
        return {"origin": round(self.origin, 3), "spans": spans}


def _joined(a: list, b: list) -> list:
    return [a[0], b[1], {phase: a[2].get(phase, 0.0) + b[2].get(phase, 0.0) for phase in {**a[2], **b[2]}}]
