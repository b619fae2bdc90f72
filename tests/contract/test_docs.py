"""The docs agree with the code."""

import re
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from agent import errors
from agent.core.explanations import PRESSURE
from agent.telemetry import Count

ROOT = Path(__file__).parents[2]
_PAGES = ("*.md", "docs/**/*.md", "schemas/**/*.md", "helm/**/*.md", "streams/*.md", "tests/*.md")
DOCS = sorted(page for pattern in _PAGES for page in ROOT.glob(pattern))


def layers_of_pyproject() -> list[set[str]]:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    layers = tool["importlinter"]["contracts"][0]["layers"]
    return [set(layer.replace(" ", "").split("|")) for layer in layers]


def test_the_layers_in_the_architecture_page_are_those_of_pyproject() -> None:
    rows = re.findall(r"^\| (`[^|]*`) \|", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)

    assert [set(re.findall(r"`(\w+)`", row)) for row in rows] == layers_of_pyproject()


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_resolves(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())

    missing = [target for target in targets if not (page.parent / target).exists()]

    assert missing == []


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_heading_resolves(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text())

    missing = [
        f"{file}#{anchor}"
        for file, anchor in targets
        if anchor not in _anchors((page.parent / file if file else page).read_text())
    ]

    assert missing == []


def _anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_make_target_in_the_docs_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    words = {word for page in DOCS for word in re.findall(r"\bmake ([a-z-]+)`", page.read_text())}

    assert words <= targets
    assert {"demo", "check", "test"} <= targets


_TEXTS = sorted(
    {
        *DOCS,
        *(
            file
            for place in (
                "agent",
                "simulator",
                "streams",
                "helm",
                "packaging",
                "release",
                "changelog.d",
                "schemas",
            )
            for file in (ROOT / place).rglob("*")
            if file.suffix in (".md", ".py", ".yaml", ".json", ".txt", ".tpl", "") and file.is_file()
        ),
        *(ROOT / name for name in ("Makefile", "Containerfile", "pyproject.toml")),
    }
)
_FROM_AN_INDEX = re.compile(
    r"\b(?:(?:pip3?|pipx|uv|poetry|apt|apt-get|dnf)\b[^\n`]*?\s(?:install|add|run|download)|uvx)\s"
    r"(?:[^\n`]*\s)?[\"']?barograph(?![\w./_-])"
)


def test_no_text_advises_to_install_a_name_that_anyone_may_take_in_a_public_index() -> None:
    """The project is in no public index. A file must have a path, and an image the name of its registry."""
    found = {
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for file in _TEXTS
        for line in file.read_text(errors="replace").splitlines()
        if _FROM_AN_INDEX.search(line)
    }

    assert found == set()
    for bad in (
        "pip install 'barograph[libvirt]'",
        "pipx run barograph",
        "uvx barograph",
        "apt install -y barograph",
    ):
        assert _FROM_AN_INDEX.search(bad), bad
    assert not _FROM_AN_INDEX.search("pip install './barograph-0.1.0-py3-none-any.whl[libvirt]'")


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_image_that_a_command_runs_has_its_registry(page: Path) -> None:
    commands = re.findall(
        r"^(?:podman|docker) (?:run|pull|create) (?:.*\\\n)*.*$", page.read_text(), re.MULTILINE
    )
    names = {"--name", "--volumes-from"}

    for command in commands:
        words = command.replace("\\\n", " ").split()
        bare = [word for before, word in pairwise(words) if word == "barograph" and before not in names]
        assert bare == [], command


def test_every_error_is_in_the_tree_of_its_module() -> None:
    tree = errors.__doc__ or ""
    names = {
        name
        for name, thing in vars(errors).items()
        if isinstance(thing, type) and issubclass(thing, errors.AgentError)
    }

    assert {name for name in names if name not in tree} == set()


def test_every_counter_is_explained() -> None:
    page = (ROOT / "docs/operations.md").read_text()

    assert [count.value for count in Count if f"`{count.value}`" not in page] == []


def test_every_path_of_the_web_is_explained() -> None:
    source = (ROOT / "agent/web/pages.py").read_text()
    paths = re.findall(r'Route\("([^"]+)"', source)

    page = (ROOT / "docs/operations.md").read_text()

    probes = {"/livez", "/readyz", "/healthz", "/status", "/metrics"}
    assert probes | {"/", "/plain", "/api/overview", "/api/vm", "/api/tap", "/assets/{name}"} == set(paths)
    assert [path for path in paths if f"| `{path}` |" not in page] == []


def test_the_advice_on_pressure_is_that_of_the_page() -> None:
    page = (ROOT / "docs/pressure.md").read_text()

    for level, advice in PRESSURE.items():
        assert f"| **`{level}`** | {advice.meaning} | {advice.next_step} |\n" in page


def test_ci_calls_the_two_commands_and_nothing_else() -> None:
    script = (ROOT / ".ci/run").read_text()
    commands = [line for line in script.splitlines() if line and not line.startswith(("#", "set ", "cd "))]

    assert commands == ["make check", "make test"]


def test_every_log_line_of_the_spool_is_in_the_code() -> None:
    page = (ROOT / "docs/operations.md").read_text().partition("### Spool problems")[2]
    source = "".join(path.read_text() for path in (ROOT / "agent/spool").glob("*.py"))

    lines = re.findall(r"`((?:spool|oldest|remembered) [A-Za-z ]+)`", page.partition("## ")[0])

    assert len(lines) >= 6
    assert [line for line in lines if f'"{line}"' not in source] == []
