"""Images whose correlation with the map is significantly negative, as a run reports them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.robust.known_rules import rule_of
from mpirecon.robust.rules import Rule

#: particles that a warning names
_NAMED = 10


@dataclass(frozen=True)
class Contradiction:
    """Images that contradict a map they did not build (robust/contradiction.py), and what `loss`, a name or a rule,
    made of them.

    wrong : ids of those that do not show it inverted: M-estimators give them no weight
    inverted : ids of those that do: all losses but l2 turn their sign
    looked_at : how many particles were, where that is a sample
    """

    wrong: np.ndarray
    inverted: np.ndarray
    loss: str | Rule
    looked_at: int | None = None

    def as_dict(self) -> dict:
        """``contradicting`` of summary.json."""
        return {"wrong": self.wrong.tolist(), "inverted": self.inverted.tolist(), "turned": rule_of(self.loss).scores,
                "without_weight": rule_of(self.loss).length}  # fmt: skip

    def warnings(self) -> list[str]:
        """What a rule did with which particles;
        that some poses are wrong is expected by losses that score each image anyway."""
        texts = []
        if len(self.inverted):
            what = "images have inverted contrast"
            if not rule_of(self.loss).scores:
                texts.append(f"{what}: {_named(self.inverted)}{self._sample}. They are in it; turn their sign, or "
                            f"choose a robust --loss")
            else:
                texts.append(f"{what}, and were counted with their sign turned: {_named(self.inverted)}")
        if len(self.wrong) and rule_of(self.loss).length:
            texts.append(f"images that contradict the map made without them (significantly negative correlation) have "
                        f"weight 0: {_named(self.wrong)}")
        return texts

    @property
    def _sample(self) -> str:
        return "" if self.looked_at is None else f" of the {self.looked_at:,} compared (--particle-scores compares all)"


def _named(ids: np.ndarray) -> str:
    shown = ", ".join(map(str, ids[:_NAMED])) + (" …" if len(ids) > _NAMED else "")
    return f"{len(ids)} particle{'s'[: len(ids) > 1]} ({shown})"
