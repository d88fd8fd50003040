"""Options and parameter types that several commands share, so that each is spelled and explained once."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import click

from mpirecon.cli.hints import did_you_mean
from mpirecon.errors import UserError
from mpirecon.io.file_names import refuse_odd_target

EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
EXISTING_PATH = click.Path(exists=True, path_type=Path)
ANY_PATH = click.Path(path_type=Path)


class Number(click.ParamType):
    """A finite number within bounds; unlike click's FloatRange it refuses NaN and infinity."""

    name = "x"

    def __init__(self, low: float = -math.inf, high: float = math.inf, *, low_open: bool = False, metavar: str = ""):
        self.low, self.high, self.low_open = low, high, low_open
        self.name = metavar or self.name

    def convert(self, value, param, ctx):
        try:
            number = float(value)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is not a number; expected {self.expected}", param, ctx)
        above = number > self.low if self.low_open else number >= self.low
        if not (math.isfinite(number) and above and number <= self.high):
            self.fail(f"{value} is out of range; expected {self.expected}", param, ctx)
        return number

    @property
    def expected(self) -> str:
        """The range in words."""
        low = "" if self.low == -math.inf else f"{'above' if self.low_open else 'at least'} {self.low:g}"
        high = "" if self.high == math.inf else f"at most {self.high:g}"
        return " and ".join(part for part in (low, high) if part) or "a finite number"


#: a fraction of something that cannot be empty: (0, 1]
FRACTION = Number(0, 1, low_open=True, metavar="fraction")
#: a probability: [0, 1]
RATE = Number(0, 1, metavar="rate")
POSITIVE = Number(0, low_open=True)
NON_NEGATIVE = Number(0)


class Whole(click.IntRange):
    """A whole number within bounds; ``N`` in help texts."""

    name = "n"

    def convert(self, value, param, ctx):
        try:
            int(value)
        except ValueError:
            self.fail(f"{value!r} is not a whole number", param, ctx)
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            least = "" if self.min is None else f"at least {self.min}"
            most = "" if self.max is None else f"at most {self.max}"
            expected = " and ".join(part for part in (least, most) if part)
            self.fail(f"{value} is out of range; expected {expected}", param, ctx)

    def _describe_range(self) -> str:  # what click adds to the help text, as 0<=x<=9223372036854775807
        low = "" if self.min is None or self.min <= 1 else f"at least {self.min}"
        high = "" if self.max is None or self.max >= 2**31 else f"at most {self.max}"
        return ", ".join(part for part in (low, high) if part)


COUNT = Whole(min=1)


class Band(click.ParamType):
    """``low:high`` in Å → (coarsest, finest)."""

    name = "low:high"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        try:
            coarse, fine = (float(part) for part in str(value).split(":"))
        except ValueError:
            self.fail(f"{value!r}: expected two resolutions in Å, e.g. 60:12", param, ctx)
        if not 0 < fine < coarse:
            self.fail(f"{value!r}: expected the coarser resolution first, e.g. 60:12", param, ctx)
        return coarse, fine


class FileOr(click.ParamType):
    """A file that exists, or a word; a file of that name is given by a path, e.g. ``./auto``."""

    def __init__(self, word: str) -> None:
        self.word, self.name = word, f"file|{word}"

    def convert(self, value, param, ctx):
        if value is None or str(value) == self.word:
            return value
        try:
            found = EXISTING_FILE.convert(value, param, ctx)
            return found.absolute() if str(found) == self.word else found  # Path has dropped the "./" given
        except click.BadParameter as error:
            self.fail(f"{error.message}{did_you_mean(str(value), [self.word])}", param, ctx)

    def shell_complete(self, ctx, param, incomplete):
        from click.shell_completion import CompletionItem

        # bash falls back to files when no word is offered, and offers files for "file" only before any word
        words = [CompletionItem(self.word)] if incomplete and self.word.startswith(incomplete) else []
        return [*EXISTING_FILE.shell_complete(ctx, param, incomplete), *words]


class ErrorKind(click.ParamType):
    """``random`` → None; ``DEG`` or ``small:DEG`` → DEG: the `small_degrees` of `draw_pose_errors`."""

    name = "random|DEG"

    def convert(self, value, param, ctx):
        if value is None or isinstance(value, float):
            return value
        if value == "random":
            return None
        kind, colon, degrees = str(value).rpartition(":")
        if kind == "small" or not colon and degrees[:1].isdigit():
            return Number(0, 180, low_open=True).convert(degrees or "nothing after the colon", param, ctx)
        self.fail(f"{value!r} is no kind of orientation error; expected 'random', or degrees, e.g. 10 (also spelled "
                  f"small:DEG)", param, ctx)


def _seed(words: str):
    return click.option("--seed", type=Whole(0, 2**63 - 1), default=1, show_default=True, metavar="N", help=words)


#: ``--seed``, passed as `seed`; of commands that draw phases of maps and know no particles, map_seed_option
seed_option = _seed("Seed of the random draws, which depend on it and the particle alone.")
map_seed_option = _seed("Seed of the random phases.")

#: ``--overwrite``, passed as `overwrite`; the command calls `refuse_existing`
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace an existing target.")

#: ``--json``, passed as `as_json`
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")

#: ``--backend``, passed as `backend`, and ``--transport``, passed as `transport`
backend_option = click.option(
    "--backend", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
    help="Where the kernels run. cuda has not been run on a GPU yet: its code is tested on CPUs.",
)  # fmt: skip
transport_option = click.option(
    "--transport", type=click.Choice(["auto", "cuda-aware", "staged", "nccl"]), default="auto", show_default=True,
    help="How GPU arrays travel between ranks.",
)  # fmt: skip


def verbosity_options(function):
    """``-q/--quiet`` and ``-v/--verbose``, passed as `quiet` and `verbose`; the command makes a Console of them."""
    function = click.option("-v", "--verbose", is_flag=True, help="Print more: what each rank does.")(function)
    return click.option("-q", "--quiet", is_flag=True, help="Print errors and warnings only.")(function)


def verbosity(quiet: bool, verbose: bool) -> int:
    """How much is printed, as ``verbose`` of the public interface has it."""
    return 0 if quiet else 1 + verbose


def pass_communicator(function):
    """Give a command the communicator its ranks share, as its first argument."""

    @click.pass_context
    @functools.wraps(function)
    def wrapper(ctx, *args, **kwargs):
        if ctx.obj is None:
            from mpirecon.parallel.comm import get_communicator  # NumPy is slow to import, and --help needs none

            ctx.obj = get_communicator()
        return ctx.invoke(function, ctx.obj, *args, **kwargs)

    return wrapper


def refuse_existing(target: Path, overwrite: bool) -> None:
    """Raise UserError when `target` exists (an empty folder does not count) and `overwrite` is not set."""
    target = Path(target)
    refuse_odd_target(target)
    if overwrite or not (target.exists() or target.is_symlink()):
        return
    if target.is_dir() and not any(target.iterdir()):
        return
    raise UserError(f"{target} exists already; choose another name, or pass --overwrite to replace it")
