"""What docs/extending.md shows works as it stands."""

import re
from pathlib import Path

import numpy as np
import pytest

from mpirecon.errors import UserError
from mpirecon.robust.known_rules import add_rule, rule_names, rule_of
from mpirecon.solvers.config import Config

PAGE = Path(__file__).resolve().parent.parent / "docs" / "extending.md"


@pytest.fixture(scope="module")
def names():
    """What the page's examples define, run one after the other."""
    found: dict = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S):
        exec(compile(block, "docs/extending.md", "exec"), found)
    return found


def test_a_rule_of_ones_own_selects(names):
    kept, wrong = names["within"].kept, names["particles"].truth["pose_error"]
    assert 0 < (~kept).sum() < 60 and wrong[~kept].mean() > 1.5 * wrong.mean()
    assert names["within"].summary["configuration"]["loss"] == "within" in rule_names()
    assert names["within"].iterations[-1]["loss"] < names["within"].iterations[-1]["loss_heldout"] + 1e-9
    with pytest.raises(UserError, match="--keep applies to"):
        Config(loss="within", keep=0.5)


def test_a_distance_of_ones_own_sorts(names):
    result = names["sorted_by_angle"]
    assert result.kept.mean() == pytest.approx(0.8, abs=0.01)
    assert np.all(result.particles["distance"] >= -1.001)
    worst = np.argsort(result.particles["distance"])[-20:]
    assert names["particles"].truth["pose_error"][worst].mean() > 0.4


def test_the_name_of_another_loss_is_refused(names):
    for name in ("l2", "huber", "within"):
        with pytest.raises(UserError, match="choose another"):
            add_rule(type("Other", (names["Within"],), {"name": name})())
    with pytest.raises(UserError, match="unknown loss 'least'.*l2.*posterior"):
        rule_of("least")


def test_rules_declare_what_runs_ask():
    declared = {name: rule_of(name) for name in ("l2", "sorted", "huber", "posterior")}
    assert [name for name, rule in declared.items() if not rule.judges] == ["l2"]
    assert [name for name, rule in declared.items() if rule.mixture or rule.looks] == ["posterior"]
    assert [name for name, rule in declared.items() if rule.length] == ["huber"]
    assert [name for name, rule in declared.items() if rule.keeps] == ["sorted", "posterior"]
