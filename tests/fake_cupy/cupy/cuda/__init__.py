"""Devices, streams, events and memory that do nothing: everything is done when the call returns."""

from __future__ import annotations

import time as _time

from . import compiler, memory, nccl, pinned_memory, runtime  # noqa: F401
from .pinned_memory import alloc_pinned_memory  # noqa: F401


class Device:
    def __init__(self, device=None) -> None:
        self.id = 0 if device is None else int(device)

    def use(self) -> None:
        runtime.setDevice(self.id)

    def synchronize(self) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class Stream:
    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None) -> None:
        self.ptr = 0 if null else id(self)

    def synchronize(self) -> None:
        pass

    def wait_event(self, event) -> None:
        if not isinstance(event, Event):
            raise TypeError("expected an Event")

    def record(self, event=None):
        event = event or Event()
        event.record(self)
        return event

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


Stream.null = Stream(null=True)


def get_current_stream(device_id=-1):
    return Stream.null


class Event:
    def __init__(self, block=False, disable_timing=False, interprocess=False) -> None:
        self._time = None

    def record(self, stream=None) -> None:
        self._time = _time.perf_counter()

    def synchronize(self) -> None:
        pass


def get_elapsed_time(start_event, end_event) -> float:
    """Milliseconds."""
    return 1e3 * (end_event._time - start_event._time)
