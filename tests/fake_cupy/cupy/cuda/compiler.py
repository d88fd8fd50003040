from __future__ import annotations


class CompileException(Exception):
    def __init__(self, msg, source, name, options, backend="nvrtc") -> None:
        super().__init__(msg)
