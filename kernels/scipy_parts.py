"""Extension modules of SciPy by themselves.

``import scipy.fft`` takes a third of a second, ``scipy.ndimage`` and what it loads a little more: all of it but a few
milliseconds for what a run has no use of.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import threading
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

_one_at_a_time = threading.Lock()


@functools.cache
def part(name: str) -> ModuleType | None:
    """The extension module of that full name, such as ``scipy.fft._pocketfft.pypocketfft``, which the package takes,
    too, where it is loaded later. None where there is none: SciPy gives no word that these stay where they are."""
    with _one_at_a_time:
        if name in sys.modules:
            return sys.modules[name]
        try:
            found = importlib.util.find_spec("scipy")
            folder = Path(found.origin).parent.joinpath(*name.split(".")[1:-1])
            spec = PathFinder.find_spec(name, [str(folder)])
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
        except (ImportError, OSError, AttributeError, TypeError):
            sys.modules.pop(name, None)
            return None
        return module
