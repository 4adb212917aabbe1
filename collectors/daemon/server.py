"""Connections: who may ask, within which bounds, and that nobody's end hurts the others."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from collectors.daemon.greeting import agree, greeting
from collectors.daemon.peers import Role, peer_user, role_of
from collectors.errors import OpsuiteError, TimedOut, UsageError
from collectors.query.protocol import error_header, receive, send

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    Frame = tuple[dict[str, Any], bytes]
    Answer = Callable[[Role, dict[str, Any]], Iterator[Frame]]

_log = logging.getLogger("opsuite")
MOST_CONNECTIONS = 64
MOST_OF_MEMBERS = 48  # the rest is kept for the owner
_MAX_REQUEST = 4 << 20
_MESSAGE_S = 5.0  # for a whole message, from its first byte on
_READ_S = 30.0  # for a client to take one frame of an answer
_IDLE_S = 300.0  # between two requests
_POLL_S = 0.5
_GRACE_S = 0.3  # for somebody who has just come, to ask


class Server:
    """Answers at a socket, a thread for each connection.

    Args:
        answer: the frames that answer a request of somebody in that role; an OpsuiteError that it
            raises is told the client.
        version: of opsuite.
        group: members of this group are let in too.
    """

    def __init__(self, answer: Answer, *, version: str, group: int | None) -> None:
        self._answer = answer
        self._greeting = {**greeting(version), "pid": os.getpid()}
        self._group = group
        self._lock = threading.Lock()
        self._open: dict[socket.socket, Role] = {}
        self._asking = 0
        self._asked_s = time.monotonic()
        self._listener: socket.socket | None = None
        self._doorman: threading.Thread | None = None
        self.failures = 0

    def serve(self, listener: socket.socket) -> None:
        """Answer at ``listener`` from now on, instead of where it was."""
        self._leave()
        listener.settimeout(_POLL_S)
        self._listener = listener
        self._doorman = threading.Thread(
            target=self._accept, args=[listener], name="accept", daemon=True
        )
        self._doorman.start()

    def _leave(self) -> None:
        """Listen no more; the thread that accepts is the one that closes."""
        listener, self._listener = self._listener, None
        if listener is not None and self._doorman is not None:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as knock:
                knock.setblocking(False)  # where nobody hears it, the thread looks up soon itself
                knock.connect(listener.getsockname())
            self._doorman.join()

    def drain(self, timeout_s: float) -> None:
        """Let nobody in any more, and answer those who are in the middle of something."""
        self._leave()
        begun = time.monotonic()
        while self._open and (waited_s := time.monotonic() - begun) < timeout_s:
            if not self._asking and waited_s >= _GRACE_S:
                return
            time.sleep(_POLL_S / 50)

    def close(self) -> None:
        """Let nobody in any more, and hang up on everybody."""
        self._leave()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):  # it is gone already
                    connection.shutdown(socket.SHUT_RDWR)

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._open)

    @property
    def idle_s(self) -> float:
        """For how long nobody has asked anything."""
        with self._lock:
            return 0.0 if self._asking else time.monotonic() - self._asked_s

    def _accept(self, listener: socket.socket) -> None:
        with listener:
            while self._listener is listener:
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                except OSError:
                    time.sleep(_POLL_S / 10)  # too many files are open just now
                    continue
                if self._listener is not listener:
                    connection.close()
                    break
                threading.Thread(
                    target=self._meet, args=[connection], name="client", daemon=True
                ).start()

    def _meet(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(_MESSAGE_S)
            try:
                role = role_of(peer_user(connection), self._group)
                refusal = self._enter(connection, role)
                if refusal is None:
                    self._converse(connection, role)
                else:
                    send(connection, error_header(refusal))
            except OSError:
                return  # it hung up, or does not read: nobody is left to tell
            except OpsuiteError as error:  # what it sent is not of this protocol
                with contextlib.suppress(OSError):
                    send(connection, error_header(error))
            finally:
                with self._lock:
                    self._open.pop(connection, None)

    def _enter(self, connection: socket.socket, role: Role) -> OpsuiteError | None:
        """Count it in, or say why not."""
        if role is Role.STRANGER:
            return UsageError(
                "this collector belongs to somebody else",
                remedy="ask its owner for `opsuite collect --group NAME`",
            )
        with self._lock:
            members = sum(known is Role.MEMBER for known in self._open.values())
            if len(self._open) >= MOST_CONNECTIONS or (
                role is Role.MEMBER and members >= MOST_OF_MEMBERS
            ):
                return TimedOut("the collector has too many clients", remedy="try again later")
            self._open[connection] = role
        return None

    def _converse(self, connection: socket.socket, role: Role) -> None:
        hello = receive(connection, timeout_s=_MESSAGE_S, max_header=_MAX_REQUEST, max_body=0)
        if hello is None:
            return
        try:
            speaks = agree(hello[0], self._greeting)
        except OpsuiteError as error:
            send(connection, {**self._greeting, **error_header(error)})
            return
        send(connection, {**self._greeting, "speaks": speaks})
        while True:
            connection.settimeout(_IDLE_S)
            frame = receive(connection, timeout_s=_MESSAGE_S, max_header=_MAX_REQUEST, max_body=0)
            if frame is None:
                return
            connection.settimeout(_READ_S)
            self._reply(connection, role, frame[0])

    def _reply(self, connection: socket.socket, role: Role, request: dict[str, Any]) -> None:
        with self._lock:
            self._asking += 1
        try:
            with contextlib.closing(self._frames(role, request)) as frames:
                for header, body in frames:
                    send(connection, header, body)
        finally:
            with self._lock:
                self._asking -= 1
                self._asked_s = time.monotonic()

    def _frames(self, role: Role, request: dict[str, Any]) -> Generator[Frame]:
        """The answer, or the error that comes in its place or cuts it short."""
        try:
            yield from self._answer(role, request)
        except OpsuiteError as error:
            yield error_header(error), b""
        except Exception as error:  # noqa: BLE001 - a bug in one answer: logged, counted, told
            self.failures += 1
            _log.exception("a request failed")
            text = f"internal error: {type(error).__name__}: {error}"
            remedy = "see `opsuite collect logs`, and report it"
            yield error_header(OpsuiteError(text, remedy=remedy)), b""
