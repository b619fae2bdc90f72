"""Asks an agent over HTTP, for the commands. While no agent runs, any user may listen at its address."""

import socket
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from threading import Event, Timer

from agent.core.wording import printable

_MESSAGE_MAX_CHARACTERS = 200


class NoAnswerError(Exception):
    """There is no answer, or it is too large or too slow. The message is printable."""


def ask(host: str, port: int, path: str, *, within_s: float, bytes_max: int) -> tuple[int, bytes]:
    """Return the status and the text of an answer.

    Raises:
        NoAnswerError: no whole answer of at most `bytes_max` came in time.
    """
    connection = HTTPConnection(host, port, timeout=within_s)
    ended = Event()
    try:
        connection.connect()
        # The timeout above is for each read, and an answer may come byte by byte.
        timer = Timer(within_s, _end, (connection.sock, ended))
        timer.daemon = True
        timer.start()
        try:
            connection.request("GET", path)
            with connection.getresponse() as answer:
                text = answer.read(bytes_max + 1)
        finally:
            timer.cancel()
    except (OSError, HTTPException) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise NoAnswerError(printable(why, _MESSAGE_MAX_CHARACTERS)) from error
    finally:
        connection.close()
    if ended.is_set():
        raise NoAnswerError(f"no whole answer within {within_s:g} s")
    if len(text) > bytes_max:
        raise NoAnswerError(f"more than {bytes_max:,} bytes")
    return answer.status, text


def shown(text: bytes) -> str:
    """Return an answer for a terminal, which interprets some characters."""
    lines = text.decode(errors="replace").rstrip().split("\n")
    return "\n".join(printable(line, len(line)) for line in lines)


def _end(connection: socket.socket, ended: Event) -> None:
    ended.set()
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
