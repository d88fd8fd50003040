"""Whether a script's function is the one that it was: what tells two apart, and what does not."""

import functools
import subprocess
import sys

import numpy as np
import pytest

from mpirecon.robust.losses import FunctionLoss, calibrated, of_excess
from mpirecon.robust.own_code import digest_of_code

SCRIPT = """
import functools
import numpy as np
from mpirecon.robust.distances import Distance
from mpirecon.robust.losses import FunctionLoss, calibrated, of_excess
from mpirecon.robust.own_code import digest_of_code

POWER, TABLE, HISTORY = 2, np.arange(3.0), []

def helper(d):
    return d ** POWER

def weight(d, scale=3.0, *, least=0.1):
    HISTORY.append(len(d))
    return np.maximum(1 / (1 + helper(d / scale)), least) * TABLE[1]

def made(power):
    return lambda d: 1 / (1 + d ** power)

def counting():
    calls = 0
    def weight(d):
        nonlocal calls
        calls += 1
        return 1 / (1 + d)
    return weight

class Mine:
    exponent = 4
    def __init__(self, tuning):
        self.tuning = tuning
    def __call__(self, d):
        return np.exp(-(d / self.tuning) ** self.exponent)

class Own(FunctionLoss):
    def weight(self, d):
        return 1 / (1 + d)

COUNTING = counting()
ALL = [weight, helper, made(2), made(3), functools.partial(weight, scale=2.0), Mine(1.0), Mine(2.0), Own, COUNTING,
       calibrated(made(4)), of_excess(made(2), 3.0), of_excess(made(2), 4.0), np.reciprocal,
       Distance("mine", True, lambda s, sigma, typical: s.residual, None),
       Distance("mine", True, lambda s, sigma, typical: -s.residual, None)]
"""


def digests(script: str) -> list[str]:
    held = {"__name__": "__main__"}
    exec(compile(script, "script", "exec"), held)
    return [digest_of_code(one) for one in held["ALL"]]


def test_functions_of_one_name_are_told_apart():
    found = digests(SCRIPT)
    assert len(set(found)) == len(found) == 15


@pytest.mark.parametrize(("before", "after", "which"), [
    ("1 + helper", "2 + helper", {0, 4}), ("scale=3.0", "scale=4.0", {0, 4}), ("least=0.1", "least=0.2", {0, 4}),
    ("d ** POWER", "d ** (POWER + 1)", {0, 1, 4}), ("HISTORY = 2,", "HISTORY = 3,", {0, 1, 4}),
    ("np.arange(3.0)", "np.arange(4.0)", {0, 4}), ("made(2), made(3)", "made(2), made(5)", {3}),
    ("exponent = 4", "exponent = 2", {5, 6}), ("np.exp(-(d", "np.exp(-(2 * d", {5, 6}),
    ("        return 1 / (1 + d)\n\nCOUNTING", "        return 2 / (1 + d)\n\nCOUNTING", {7}),
])
def test_what_a_function_does_is_in_its_digest(before, after, which):
    assert before in SCRIPT
    changed = zip(digests(SCRIPT), digests(SCRIPT.replace(before, after)))
    assert {number for number, (one, other) in enumerate(changed) if one != other} == which


def test_where_it_stands_and_what_it_notes_is_not():
    moved = SCRIPT.replace("def helper", "# a comment\n\n\ndef helper")
    noting = SCRIPT + "\nweight(np.ones(4)); COUNTING(np.ones(4)); ALL[5].calls = []\n"
    assert digests(moved) == digests(SCRIPT)
    assert [number for number, (one, other) in enumerate(zip(digests(noting), digests(SCRIPT)))
            if one != other] == [5]  # an object that has a new attribute


def test_another_process_says_the_same():
    code = SCRIPT + "print(*map(digest_of_code, ALL))"
    said = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           env={"PYTHONHASHSEED": seed, "PATH": ""}).stdout.split() for seed in "12"]
    assert said[0] == said[1] and len(said[0]) == 15


def test_a_function_that_refers_to_itself_ends():
    def again(d):
        return again(d - 1) if d > 0 else 1

    assert digest_of_code(again) == digest_of_code(again) != digest_of_code(functools.partial(again, 2))
    assert digest_of_code(calibrated(again)) != digest_of_code(of_excess(again))
    assert digest_of_code(FunctionLoss(again)) != digest_of_code(FunctionLoss(np.reciprocal))
