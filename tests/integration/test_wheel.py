"""Test of the built wheel in an environment of its own, outside the checkout."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    argv = [str(word) for word in words]
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=600, cwd=cwd, env=env)


@pytest.mark.timeout(1200)
def test_the_command_runs_from_the_built_wheel_with_its_schemas(folder: Path) -> None:
    uv = shutil.which("uv") or next(Path(os.environ["BAROGRAPH_CACHE"]).glob("uv-*/bin/uv"))
    built = run(uv, "build", "--quiet", "--wheel", "--out-dir", folder / "dist", cwd=ROOT)
    assert built.returncode == 0, built.stderr
    wheel = next((folder / "dist").glob("*.whl"))
    inside = set(zipfile.ZipFile(wheel).namelist())
    assets = {f"agent/web/assets/{each.name}" for each in (ROOT / "agent/web/assets").iterdir()}
    assert assets <= inside
    assert any(name.endswith("licenses/agent/web/assets/uplot-1.6.32.LICENSE.txt") for name in inside)
    venv.create(folder / "env")
    python = folder / "env/bin/python"
    install = (uv, "pip", "install", "--quiet", "--python", python)
    locked = run(*install, "--require-hashes", "-r", ROOT / "requirements.lock", cwd=folder)
    assert locked.returncode == 0, locked.stderr
    assert run(*install, "--no-deps", wheel, cwd=folder).returncode == 0

    command = folder / "env/bin/barograph"
    version = run(command, "version", cwd=folder)
    schema = run(command, "schema", "sample", cwd=folder)
    refused = run(command, "check-config", "--monitor", "not/absolute", cwd=folder)

    for _ in range(3):  # an agent without CPU for a second loses updates, and the demo reports it
        shown = run(command, "demo", "--scenario", "steady", "--vms", "3", "--seconds", "5", cwd=folder)
        if shown.returncode == 0:
            break

    assert (shown.returncode, shown.stderr) == (0, "")
    assert " % of one core including its start" in shown.stdout
    assert version.stdout.startswith("barograph "), version.stderr
    assert json.loads(schema.stdout)["$schema"].endswith("2020-12/schema")
    assert refused.returncode == 2
    assert "--monitor" in refused.stderr
    assert sys.prefix not in refused.stderr
