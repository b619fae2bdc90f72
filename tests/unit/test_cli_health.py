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
        thread = Thread(target=server.serve_forever)
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
    ids=["lives", "is not ready"],
)
def test_the_agent_is_asked_and_its_answer_is_told(words: tuple[str, ...], code: int, said: str) -> None:
    with answering(STARTING) as place:
        done = health(*words, "--web", place)

    assert (done.exit_code, done.stdout) == (code, said)


def test_it_is_asked_where_the_configuration_says() -> None:
    with answering(STARTING) as place:
        done = health(BAROGRAPH_WEB__LISTEN=place)

    assert (done.exit_code, done.stdout) == (0, "ok\n")


def test_nobody_there_is_told() -> None:
    with answering(STARTING) as place:
        pass  # it has ended

    done = health("--web", place)

    assert done.exit_code == 1
    assert done.stderr.startswith(f"no answer from {place}: ")


@pytest.mark.parametrize(
    "environ", [{"BAROGRAPH_WEB__ENABLED": "false"}, {"BAROGRAPH_WEB__LISTEN": "127.0.0.1:0"}]
)
def test_where_nobody_can_be_asked_that_is_said(environ: dict[str, str]) -> None:
    done = health(**environ)

    assert done.exit_code == 1
    assert "says of no port" in done.stderr
