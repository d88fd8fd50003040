"""Noticing at once that a rank is gone: each holds a connection to the next, which the system closes when that one ends.

MPI and launchers notice it too, but name the rank that noticed, or the host alone, or wait for a quarter of an hour for
a host that answers no more. Nothing is sent but a goodbye, so that the system's own keepalive can tell a silent host.
Where no connection can be made (a firewall), ranks are watched by their pulses alone.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
import threading
from collections.abc import Callable

#: seconds for a connection to be made
_PATIENCE = 3.0

#: seconds of idleness, and between questions, of which so many may stay unanswered: a host is lost after 30 s
_IDLE, _BETWEEN, _QUESTIONS = 10, 5, 4

_GOODBYE = b"."

#: Linux's question for the address of a network interface
_SIOCGIFADDR = 0x8915


class Lifeline:
    """Connections of a rank to its neighbours in the ring of ranks.

    Parameters
    ----------
    comm : Communicator
    hosts : list of str
        the hosts' names, by rank
    lost : callable
        called with a sentence when the next rank is gone, from a thread of its own
    """

    def __init__(self, comm, hosts: list[str], lost: Callable[[str], None]) -> None:
        self._comm, self._hosts, self._lost = comm, hosts, lost
        self._next = self._previous = None
        self._ended = threading.Event()

    def tie(self) -> None:
        """Make the connections: all of them, or none where one cannot be made. Collective."""
        comm = self._comm
        if comm.size == 1:
            return
        with socket.socket() as listener:
            listener.bind(("", 0))
            listener.listen()
            word = comm.bcast(secrets.token_bytes(16))
            places = comm.allgather((_addresses(), listener.getsockname()[1]))
            other = (comm.rank + 1) % comm.size
            called = _Called(listener, word + bytes([comm.rank % 256]))
            self._next = _connect(*places[other], comm.hostname == self._hosts[other], word + bytes([other % 256]))
            self._previous = called.answer(wait=self._next is not None)
        if not comm.allreduce_scalar(int(None not in (self._next, self._previous)), "min"):
            return self.let_go()
        threading.Thread(target=self._watch, args=(other,), name="lifeline", daemon=True).start()

    def let_go(self) -> None:
        """Say goodbye: from now on nobody misses this rank, nor does it miss another."""
        self._ended.set()
        for end in filter(None, (self._previous, self._next)):
            with contextlib.suppress(OSError):
                end.send(_GOODBYE)
                end.shutdown(socket.SHUT_RDWR)

    def _watch(self, other: int) -> None:
        try:
            heard = self._next.recv(1)
            how = "its connection was closed: it was killed, or its host went down"
        except OSError as error:
            heard = b""
            how = f"its host does not answer, or the network between is down: {error.strerror.lower()}"
        if heard != _GOODBYE and not self._ended.is_set():
            self.let_go()
            self._lost(f"rank {other} on host {self._hosts[other]} is lost ({how})")


def _connect(addresses: list[str], port: int, here: bool, word: bytes) -> socket.socket | None:
    """The first connection to whom that word is meant for: addresses of virtual interfaces are alike on all hosts."""
    for address in ["127.0.0.1"] if here else addresses:
        with contextlib.suppress(OSError):
            made = socket.create_connection((address, port), _PATIENCE)
            made.sendall(word)
            if made.recv(1) == word[-1:]:
                return _kept_alive(made)
            made.close()
    return None


class _Called:
    """Waits for the rank before to connect, while this one connects to the next."""

    def __init__(self, listener: socket.socket, word: bytes) -> None:
        self._listener, self._word, self._made = listener, word, None
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def answer(self, wait: bool) -> socket.socket | None:
        if not wait:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        return self._made

    def _accept(self) -> None:
        self._listener.settimeout(_PATIENCE)
        with contextlib.suppress(OSError):
            while self._made is None:
                made, _ = self._listener.accept()
                made.settimeout(_PATIENCE)
                if made.recv(len(self._word), socket.MSG_WAITALL) == self._word:
                    made.sendall(self._word[-1:])
                    self._made = _kept_alive(made)
                else:
                    made.close()


def _kept_alive(made: socket.socket) -> socket.socket:
    made.settimeout(None)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", _IDLE), ("TCP_KEEPINTVL", _BETWEEN), ("TCP_KEEPCNT", _QUESTIONS)):
        if name in vars(socket):  # not on every system
            made.setsockopt(socket.IPPROTO_TCP, vars(socket)[name], value)
    return made


def _addresses() -> list[str]:
    """IPv4 addresses of this host's interfaces but the loopback; names need not be known to each other."""
    found = []
    with contextlib.suppress(ImportError, OSError), socket.socket(type=socket.SOCK_DGRAM) as asking:
        import fcntl

        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found.append(socket.inet_ntoa(answer[20:24]))
    return [address for address in found if not address.startswith("127.")]
