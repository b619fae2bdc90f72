from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from typer.testing import CliRunner, Result

from agent.cli import cli

HOST = {"BAROGRAPH_HOST__ID": "host-1", "BAROGRAPH_HOST__NAME": "one"}


def health(*words: str, **environ: str) -> Result:
    return CliRunner().invoke(cli, ["health", *words], env=HOST | environ, prog_name="barograph")


@contextmanager
def answering(answers: dict[str, tuple[int, str]]) -> Generator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = answers[self.path]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


STARTING = {"/livez": (200, "ok\n"), "/readyz": (503, "the first discovery is not done\n")}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [((), 0, "ok\n"), (("--ready",), 1, "the first discovery is not done\n")],
    ids=["alive", "not ready"],
)
def test_the_answer_of_the_agent_is_printed(words: tuple[str, ...], code: int, said: str) -> None:
    with answering(STARTING) as place:
        done = health(*words, "--web", place)

    assert (done.exit_code, done.stdout) == (code, said)


def test_the_configured_address_is_used() -> None:
    with answering(STARTING) as place:
        done = health(BAROGRAPH_WEB__LISTEN=place)

    assert (done.exit_code, done.stdout) == (0, "ok\n")


def test_an_agent_that_does_not_answer_is_reported() -> None:
    with answering(STARTING) as place:
        pass  # the agent stops here

    done = health("--web", place)

    assert done.exit_code == 1
    assert done.stderr.startswith(f"no answer from {place}: ")


@pytest.mark.parametrize(
    "environ", [{"BAROGRAPH_WEB__ENABLED": "false"}, {"BAROGRAPH_WEB__LISTEN": "127.0.0.1:0"}]
)
def test_without_a_known_port_the_check_fails(environ: dict[str, str]) -> None:
    done = health(**environ)

    assert done.exit_code == 1
    assert "its port is 0" in done.stderr
