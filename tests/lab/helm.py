"""Render the chart. `python -m tests.lab.helm` renders the manifests of the examples again."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import yaml

from tests.lab import setup

CHART = Path(__file__).parents[2] / "helm/barograph"
CI = sorted((CHART / "ci").glob("*-values.yaml"))
KUBERNETES = "1.37"
"""The version to render for. An unreleased Helm assumes a Kubernetes that the chart does not support."""

OF_OTHERS = ("monitoring.coreos.com/v1", "security.openshift.io/v1")
"""APIs in the chart's manifests that are not part of Kubernetes."""

EXAMPLES = sorted((CHART / "examples").glob("*/values.yaml"))
_AS_ONE = ("--namespace", "barograph", "--kube-version", KUBERNETES)

Manifest = dict[str, Any]


def helm(*words: str | Path) -> str:
    """Run Helm and return its output.

    Raises:
        RuntimeError: Helm failed; the message is its standard error.
    """
    argv = [str(setup.helm()), *(str(word) for word in words)]
    with tempfile.TemporaryDirectory() as home:  # without the user's configuration
        homes = dict.fromkeys(("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"), home)
        env = {**os.environ, **homes}
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60, env=env)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


@cache
def _rendered(words: tuple[str | Path, ...]) -> str:
    return helm("template", "barograph", CHART, *_AS_ONE, *words)


def render(*words: str | Path) -> list[Manifest]:
    """Return the manifests of a release `barograph` in the namespace `barograph`.

    Args:
        words: further arguments of Helm, such as `--set` and a value.

    Raises:
        RuntimeError: the chart or its schema refused the values; the message says why.
    """
    documents = yaml.load_all(_rendered(words), yaml.CSafeLoader)  # SafeLoader takes ten times the CPU
    return [each for each in cast(list[Manifest | None], list(documents)) if each is not None]


def render_with(values: object) -> list[Manifest]:
    """Return the same for values that are given as an object.

    Raises:
        RuntimeError: as in `render`.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values, file)  # JSON is YAML
        file.flush()
        return render("--values", file.name)


def named(values: Path) -> str:
    """Return a name for a values file, as the id of a test."""
    if values.name == "values.yaml":
        return f"example-{values.parent.name}"
    return values.name.removesuffix("-values.yaml")


def one(manifests: Sequence[Manifest], kind: str) -> Manifest:
    """Return the only manifest of a kind."""
    (found,) = (each for each in manifests if each["kind"] == kind)
    return found


def rendered(values: Path) -> dict[str, str]:
    """Return an example's manifests as files, by name."""
    with tempfile.TemporaryDirectory() as folder:
        helm("template", "barograph", CHART, *_AS_ONE, "--values", values, "--output-dir", folder)
        top = Path(folder) / "barograph/templates"
        files = sorted(path for path in top.rglob("*.yaml"))
        return {str(path.relative_to(top)).replace("/", "-"): path.read_text() for path in files}


def main() -> int:
    """Render the manifests of the examples again."""
    for values in EXAMPLES:
        folder = values.parent / "rendered"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, text in rendered(values).items():
            (folder / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
