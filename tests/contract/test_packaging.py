"""The packages support the Python versions of the project, and import only libvirt from the distribution."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from release.tree import PYTHONS

ROOT = Path(__file__).parents[2]
TREE = ROOT / "packaging/tree"


def test_the_pythons_are_those_of_the_project_and_of_the_package_s_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [each.rpartition(" ")[2] for each in project["classifiers"] if " :: Python :: 3." in each]
    tried = re.findall(
        r"python(3\.\d+)", re.findall(r"^for name in .*$", (TREE / "prepare").read_text(), re.M)[0]
    )
    nfpm = (ROOT / "packaging/nfpm.yaml").read_text()
    newest = int(PYTHONS[-1].partition(".")[2])

    assert named == list(PYTHONS)
    assert project["requires-python"] == f">={PYTHONS[0]}"
    assert tried == list(reversed(PYTHONS))
    assert f"python3 (>= {PYTHONS[0]}) | " + " | ".join(f"python{each}" for each in tried) in nfpm
    assert f"(python3 >= {PYTHONS[0]} or " + " or ".join(f"python{each}" for each in tried) + ")" in nfpm
    assert f"breaks: [python3 (>= 3.{newest + 1}~)]" in nfpm


def test_libvirt_and_nothing_else_is_found_in_the_distribution_s_directories(tmp_path: Path) -> None:
    for name in ("libvirt", "libvirt_qemu", "yaml_of_the_distribution"):
        (tmp_path / f"{name}.py").write_text("")
    program = (
        "import sys; from importlib.util import find_spec; sys.path.insert(0, sys.argv[1])\n"
        "import distribution_libvirt; distribution_libvirt.DIRECTORIES[:] = [sys.argv[2]]\n"
        "names = ('libvirt', 'libvirt_qemu', 'yaml_of_the_distribution')\n"
        "print(*(name for name in names if find_spec(name)))"
    )

    words = [sys.executable, "-B", "-I", "-S", "-c", program, str(TREE), str(tmp_path)]
    found = subprocess.run(words, check=True, capture_output=True, text=True)

    assert found.stdout.split() == ["libvirt"]


def test_the_packages_programs_ignore_python_variables_of_the_caller() -> None:
    # The package's scripts run them as root, in the environment of the user who installs or removes it.
    runs_python = [
        line
        for name in ("barograph", "prepare")
        for line in (TREE / name).read_text().splitlines()
        if re.search(r"bin/python$|bin/python -|\$python\" -", line)
    ]

    assert len(runs_python) == 3
    assert all(re.search(r"python\"? -I\b", line) for line in runs_python), runs_python
