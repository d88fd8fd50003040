"""The constants that forecasts go by: those measured on this user's machine, else those that the package comes with."""

from __future__ import annotations

import functools
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from importlib import resources
from pathlib import Path

import numpy as np

from mpirecon.batch.site import configuration_folder
from mpirecon.errors import UserError
from mpirecon.io.atomic import atomic_path

#: what a file of constants says it is
_FORMAT = "mpirecon-machine"

#: names another file of constants; empty: those that the package comes with
_NAMED = "MPIRECON_MACHINE"

_NOT_HERE = "not calibrated on this machine; mpirecon forecast --calibrate"


@dataclass(frozen=True)
class Calibration:
    """Constants of the model, and where and when they were measured.

    model : ``seconds`` (phase → constant for each term of forecast.work), ``memory``, ``threads``, ``machine``
    host, cpu, measured : of this user's machine, the day as 2026-01-31; None of the package's constants
    damage : why this user's own are not used, a sentence; empty where there are none or they are
    """

    model: dict
    host: str | None = None
    cpu: str | None = None
    measured: str | None = None
    damage: str = ""

    def __str__(self) -> str:
        return _NOT_HERE if self.host is None else f"calibrated on {self.host} ({self.cpu}), {self.measured}"

    @property
    def of_cores(self) -> str:
        """Of which cores forecasts are, in words."""
        return str(self) if self.host else f"those of CPU cores like the ones in docs/scaling.md ({_NOT_HERE})"

    def as_dict(self) -> dict | None:
        """For ``--json``; None where it was not made on a machine of this user's."""
        return None if self.host is None else {"host": self.host, "cpu": self.cpu, "date": self.measured}


def machine_file(environ: Mapping[str, str] = os.environ) -> Path | None:
    """``$MPIRECON_MACHINE``, else ``mpirecon/machine.json`` in the user's configuration folder, whether or not it is
    there; None where that variable is empty."""
    if _NAMED in environ:
        return Path(environ[_NAMED]) if environ[_NAMED] else None
    return configuration_folder(environ) / "machine.json"


def calibration(environ: Mapping[str, str] = os.environ) -> Calibration:
    """What forecasts go by here and now."""
    path = machine_file(environ)
    try:
        return Calibration(packaged()) if path is None else _read(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        return Calibration(packaged())
    except (OSError, UserError) as error:
        return Calibration(packaged(), damage=f"{error}; forecasts go by the constants of mpirecon itself. Measure "
                                              "again with mpirecon forecast --calibrate, or remove the file")


@functools.cache
def packaged() -> dict:
    """What tools/scaling measured."""
    return json.loads(resources.files("mpirecon.batch").joinpath("model.json").read_text(encoding="utf-8"))


@functools.lru_cache(4)
def _read(path: Path, changed: int) -> Calibration:
    """changed : when the file was, so that a new one is read"""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not a calibration of mpirecon: {error}") from error
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise UserError(f"{path} is not a calibration of mpirecon: there is no \"format\": \"{_FORMAT}\" in it")
    wrong = _difference(found.get("model"), packaged())
    if wrong or not all(isinstance(found.get(name), str) for name in ("host", "cpu", "date")):
        wrong = wrong or "host, cpu or date is missing"
        raise UserError(f"{path} is not a calibration that this version can use: {wrong}")
    return Calibration(found["model"], found["host"], found["cpu"], found["date"])


def _difference(model, wanted, name: str = "model") -> str:
    """In what the constants are of another form than those of this version, if they are."""
    if isinstance(wanted, dict):
        if not isinstance(model, dict) or model.keys() != wanted.keys():
            return f"{name} should hold {', '.join(wanted)}"
        return next(filter(None, (_difference(model[key], wanted[key], key) for key in wanted)), "")
    if isinstance(wanted, str):
        return "" if isinstance(model, str) else f"{name} should be a text"
    try:
        number = np.asarray(model, np.float64)
    except (TypeError, ValueError):
        return f"{name} should be {'numbers' if isinstance(wanted, list) else 'a number'}"
    if number.shape != np.shape(wanted) or not (np.isfinite(number) & (number >= 0)).all():
        return f"{name} should be {f'{len(wanted)} numbers' if isinstance(wanted, list) else 'a number'}, 0 or more"
    return ""


def refuse_other(path: Path) -> None:
    """Raise UserError where a file is there that is no calibration of any version, which a new one would replace."""
    if not path.is_file():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise UserError(f"{path} exists already and is not a calibration; choose another name")


def write_calibration(path: Path, model: dict) -> Calibration:
    """Keep constants that were measured here.

    Raises
    ------
    UserError
        where the file cannot be written.
    """
    made = Calibration(model, platform.node() or "this machine", processor(), date.today().isoformat())
    made_of = {"format": _FORMAT, "host": made.host, "cpu": made.cpu, "date": made.measured, "model": model}
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(made_of, indent=1) + "\n", encoding="utf-8")
    return made


def processor() -> str:
    """The name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine() or "an unknown CPU"
