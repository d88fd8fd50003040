"""mpirecon: robust cryo-EM 3-D reconstruction on MPI and GPUs.

The public names are loaded when they are first asked for: ``import mpirecon`` starts nothing and takes no time.
They are documented in docs/python.md.
"""

from __future__ import annotations

__version__ = "0.1.0"

#: public name → module that has it; a name that is a module's own maps to that module
_NAMES = {
    "Particles": "mpirecon.api.particles",
    "open": "mpirecon.api.reading",
    "read_star": "mpirecon.api.reading",
    "read_cs": "mpirecon.api.reading",
    "simulate": "mpirecon.api.simulated",
    "phantom": "mpirecon.api.simulated",
    "reconstruct": "mpirecon.api.reconstruction",
    "Reconstruction": "mpirecon.api.reconstruction",
    "State": "mpirecon.api.reconstruction",
    "world": "mpirecon.api.reconstruction",
    "Result": "mpirecon.api.result",
    "data_frame": "mpirecon.api.frames",
    "null": "mpirecon.api.null",
    "NullTest": "mpirecon.api.null",
    "path": "mpirecon.api.path",
    "SelectionPath": "mpirecon.api.path",
    "FSC": "mpirecon.api.maps",
    "Volume": "mpirecon.api.maps",
    "automatic_mask": "mpirecon.api.masks",
    "fsc": "mpirecon.api.maps",
    "postprocess": "mpirecon.api.masks",
    "local_resolution": "mpirecon.api.local",
    "read_map": "mpirecon.api.maps",
    "ForwardModel": "mpirecon.api.forward",
    "project": "mpirecon.api.forward",
    "score": "mpirecon.api.scores",
    "compare": "mpirecon.api.comparison",
    "search_poses": "mpirecon.api.search",
    "export": "mpirecon.api.finished",
    "write_report": "mpirecon.api.finished",
    "view": "mpirecon.api.finished",
    "Pose": "mpirecon.model",
    "make_ctf": "mpirecon.model",
    "UserError": "mpirecon.errors",
    "weiszfeld": "mpirecon.robust.weiszfeld",
    "losses": "mpirecon.robust.losses",
    "distances": "mpirecon.robust.distances",
}

__all__ = ["__version__", *_NAMES]


def __getattr__(name: str):
    if name not in _NAMES:
        raise AttributeError(f"module 'mpirecon' has no attribute {name!r}; it has {', '.join(_NAMES)}")
    import importlib

    module = importlib.import_module(_NAMES[name])
    value = module if name in ("losses", "distances") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])
