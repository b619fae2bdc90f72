"""Monitors that misbehave: scripted peers on Unix sockets, each in a separate process.

`python -m tests.lab.hostile KIND PATH`: `flood` (events without end), `garbage` (invalid answers), `silent`
(greets and never answers).
"""

import json
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.lab.process import die_with_parent

GREETING = '{"QMP": {"version": {"qemu": {"major": 8, "minor": 0, "micro": 0}}, "capabilities": []}}\r\n'
EVENT = '{"event": "RTC_CHANGE", "data": {"offset": 0}, "timestamp": {"seconds": 1, "microseconds": 0}}\r\n'
GARBAGE = (
    '{"return": {"stats": [], "last-update": "yesterday"}, "id": %s}\r\n',
    '{"return": {"stats": {"stat-free-memory": 1e400}, "last-update": -1}, "id": %s}\r\n',
    '{"return": {"stats": {"stat-free-memory": [[]]}, "last-update": 1e99}, "id": %s}\r\n',
    '{"id": %s, "error": {"class": 7}}\r\n',
    '{"return": "\\ud800", "id": %s}\r\n',
)


@contextmanager
def hostile(kind: str, path: Path) -> Generator[None]:
    """Run a peer of a kind on the socket `path` until the block ends."""
    argv = [sys.executable, "-m", "tests.lab.hostile", kind, str(path)]
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, preexec_fn=die_with_parent, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        path.unlink(missing_ok=True)


def _serve(kind: str, path: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)
    print("listening", flush=True)
    while True:
        peer, _ = listener.accept()
        with suppress(OSError), peer:
            _talk(kind, peer)


def _talk(kind: str, peer: socket.socket) -> None:
    peer.sendall(GREETING.encode())
    stream = json.JSONDecoder()
    text = ""
    served = 0
    while True:
        text += peer.recv(65536).decode()
        if not text:
            return
        while text:
            request, end = stream.raw_decode(text)
            text = text[end:].lstrip()
            served += 1
            if request["execute"] == "qmp_capabilities":
                peer.sendall(json.dumps({"return": {}, "id": request.get("id")}).encode() + b"\r\n")
                while kind == "flood":
                    peer.sendall(EVENT.encode() * 100)
            elif kind == "garbage":
                answer = plausible(request) if served < 12 else None
                words = answer or GARBAGE[served % len(GARBAGE)] % json.dumps(request.get("id"))
                peer.sendall(words.encode())


def plausible(request: dict[str, object]) -> str | None:
    """Return an answer with which a client gets to the statistics, or `None` for other commands."""
    known: dict[object, object] = {
        "query-status": {"status": "running", "running": True},
        "query-uuid": {"UUID": "00000000-0000-0000-0000-000000000000"},
        "query-name": {"name": "garbage"},
        "query-balloon": {"actual": 1},
        "query-memory-size-summary": {"base-memory": 1, "plugged-memory": 0},
        "qom-list": [{"name": "balloon0", "type": "child<virtio-balloon-pci>"}],
    }
    answer = known.get(request["execute"])
    if "guest-stats-polling-interval" in json.dumps(request):
        answer = 1
    if "deflate-on-oom" in json.dumps(request):
        answer = False
    if answer is None:
        return None
    return json.dumps({"return": answer, "id": request.get("id")}) + "\r\n"


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2])
