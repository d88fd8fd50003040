"""What all jobs of a site have in common, from a small TOML file."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from mpirecon.errors import UserError

#: key → type. Lists are of texts. What a key means is in docs/batch.md, beside the option of the same name.
KEYS = {
    "account": str, "partition": str, "email": str, "modules": list, "setup": list, "container": str,
    "container_command": str, "launcher": str, "launcher_options": str, "mpi": str, "program": str, "template": str,
    "parallel_environment": str, "cores_per_node": int, "memory_per_node": str, "gpus_per_node": int, "max_time": str,
    "warning": int, "speed": float,
}  # fmt: skip


def site_file(environ: Mapping[str, str] = os.environ) -> Path | None:
    """``$MPIRECON_SITE``, else ``mpirecon/site.toml`` in the user's configuration folder if it exists, else None."""
    if environ.get("MPIRECON_SITE"):
        return Path(environ["MPIRECON_SITE"])
    usual = configuration_folder(environ) / "site.toml"
    return usual if usual.is_file() else None


def configuration_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of this user's settings of mpirecon."""
    home = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".config")
    return Path(home) / "mpirecon"


def read_site(path: Path | None, gpu: bool = False) -> dict:
    """The keys of a site file; its table ``[gpu]`` comes on top for jobs that ask for GPUs. Without a file, nothing.

    Raises
    ------
    UserError
        naming the file, when it cannot be read, is not TOML, or has a key or type that is not expected.
    """
    if path is None:
        return {}
    try:
        table = _toml().loads(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError) as error:  # TOML and UTF-8 errors are ValueErrors
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot read the site's defaults: {reason}") from error
    gpu_table = table.pop("gpu", {})
    if not isinstance(gpu_table, dict):
        raise UserError(f"{path}: gpu is {gpu_table!r}, expected a table: [gpu] on a line of its own")
    for values in (table, gpu_table):
        for key, value in values.items():
            _check(path, key, value)
    return {**table, **(gpu_table if gpu else {})}


def _check(path: Path, key: str, value) -> None:
    if key not in KEYS:
        close = difflib.get_close_matches(key, KEYS, 1)
        hint = f"did you mean {close[0]}?" if close else f"expected {', '.join(KEYS)}"
        raise UserError(f"{path}: unknown key {key}; {hint}")
    wanted = KEYS[key]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    good = number if wanted is float else isinstance(value, wanted) and (wanted is not int or number)
    if wanted in (int, float):
        good = good and value > 0
    if wanted is list:
        good = good and all(isinstance(entry, str) for entry in value)
    if not good:
        names = {
            str: "a text in quotes",
            list: 'a list of texts, e.g. ["a", "b"]',
            int: "a positive whole number",
            float: "a positive number",
        }
        raise UserError(f"{path}: {key} is {value!r}, expected {names[wanted]}")


def _toml():
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib
    import tomli  # the same, before Python had it

    return tomli
