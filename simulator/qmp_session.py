"""A client's session with a monitor, as bytes in and bytes out (monitor/qmp.c, qapi/qmp-dispatch.c)."""

import json
from collections.abc import Callable
from typing import cast

from simulator.json_stream import JsonStream, Malformed
from simulator.qemu import Now, Qemu, Refused
from simulator.qmp_commands import Parameter, check, execute

_MEMBERS = ("execute", "exec-oob", "arguments", "id")


class Session:
    """One session, from the greeting until the client leaves."""

    def __init__(self, qemu: Qemu, send: Callable[[bytes], None]) -> None:
        """Start a session; sends the greeting at once."""
        self._qemu = qemu
        self._send = send
        self._stream = JsonStream()
        self._negotiated = False
        self._oob = False
        greeting = {"QMP": {"version": qemu.version.describe(), "capabilities": ["oob"]}}
        send(json.dumps(greeting).encode() + b"\r\n")

    def receive(self, data: bytes, now: Now) -> None:
        """Answer each complete message."""
        for message in self._stream.feed(data):
            self._send(self._answer(message, now))

    def close(self) -> None:
        """End the session: no more events are sent."""
        if self._send in self._qemu.events.subscribers:
            self._qemu.events.subscribers.remove(self._send)

    def _answer(self, message: object, now: Now) -> bytes:
        request_id = ""
        try:
            if isinstance(message, Malformed):
                raise Refused(str(message))
            if not isinstance(message, dict):
                raise Refused("QMP input must be a JSON object")
            request = cast(dict[str, object], message)
            if "id" in request:
                value = request["id"]
                request_id = str(value) if type(value) is int else json.dumps(value)
            answer = self._dispatch(request, now)
        except Refused as refused:
            error = json.dumps({"class": refused.error_class, "desc": str(refused)})
            head = f'{{"id": {request_id}, ' if request_id else "{"  # pyrefly: ignore[redundant-condition]
            return f'{head}"error": {error}}}\r\n'.encode()
        tail = f', "id": {request_id}}}' if request_id else "}"
        return f'{{"return": {answer}{tail}\r\n'.encode()

    def _dispatch(self, request: dict[str, object], now: Now) -> str:
        for name, value in request.items():
            if name not in _MEMBERS or (name == "exec-oob" and not self._oob):
                raise Refused(f"QMP input member '{name}' is unexpected")
            if name == "arguments" and not isinstance(value, dict):
                raise Refused("QMP input member 'arguments' must be an object")
            if name in ("execute", "exec-oob") and not isinstance(value, str):
                raise Refused(f"QMP input member '{name}' must be a string")
        command = request.get("execute", request.get("exec-oob"))
        if command is None:
            raise Refused("QMP input lacks member 'execute'")
        arguments = cast(dict[str, object], request.get("arguments", {}))
        if not self._negotiated:
            return self._negotiate(cast(str, command), arguments)
        if command == "qmp_capabilities":
            raise Refused("Capabilities negotiation is already complete, command ignored", "CommandNotFound")
        if "exec-oob" in request:
            raise Refused(f"The command {command} does not support OOB")
        return execute(self._qemu, cast(str, command), arguments, now)

    def _negotiate(self, command: str, arguments: dict[str, object]) -> str:
        if command != "qmp_capabilities":
            raise Refused("Expecting capabilities negotiation with 'qmp_capabilities'", "CommandNotFound")
        check((Parameter("enable", "array", True),), arguments)
        for capability in cast(list[object], arguments.get("enable", [])):
            if capability != "oob":
                raise Refused(f"Parameter 'null' does not accept value '{capability}'")
        self._negotiated, self._oob = True, "enable" in arguments
        self._qemu.events.subscribers.append(self._send)
        return "{}"
