"""Tests of the contents of a release, and that each build of it is the same."""

import hashlib
import json
import shlex
import tarfile
import zipfile
from pathlib import Path

import pytest

from agent import __version__
from tests.integration.conftest import need
from tests.integration.releasing import ROOT, rehearse, release
from tests.lab import image

pytestmark = pytest.mark.timeout(2400)


def sums(folder: Path) -> dict[str, str]:
    """Check the digests in SHA256SUMS; return them by file."""
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    said = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert said == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in said}
    assert set(said) == {each.name for each in folder.iterdir()} - {"SHA256SUMS", "SHA256SUMS.sig"}
    return said


def test_wheel_sdist_schemas_and_chart_are_the_same_bytes_each_time(folder: Path) -> None:
    parts = ("python", "schemas", "chart", "notes")
    release(folder / "a", *parts)
    release(folder / "b", *parts, TZ="Asia/Tokyo", LC_ALL="C", PYTHONHASHSEED="7")

    made = sums(folder / "a")

    assert made == sums(folder / "b")
    charts = [name for name in made if name.startswith("barograph-chart-")]
    assert len(charts) == (ROOT / "helm/barograph").is_dir()
    assert set(made) - set(charts) == {
        f"barograph-{__version__}-py3-none-any.whl",
        f"barograph-{__version__}.tar.gz",
        f"barograph-{__version__}-requirements.lock",
        "MANIFEST.json",
        f"barograph-schemas-{__version__}.tar.gz",
        "NOTES.md",
    }


@pytest.mark.long
def test_the_image_is_the_same_bytes_each_time(folder: Path) -> None:
    need("image")
    variables = {"PODMAN": shlex.join(image.PODMAN), "IMAGE_OPTIONS": shlex.join(image.BUILD_OPTIONS)}
    base = image.have_base()
    release(folder / "a", "image", BASE=base, **variables)
    release(folder / "b", "image", BASE=base, **variables, TZ="Asia/Tokyo", PYTHONHASHSEED="7")
    image.podman("untag", f"localhost/barograph:{__version__}")

    made = sums(folder / "a")

    assert made == sums(folder / "b")
    assert set(made) == {f"barograph-image-{__version__}.tar", "MANIFEST.json"}


def test_the_parts_contain_the_expected_files(folder: Path) -> None:
    release(folder / "a", "python", "schemas", "notes")

    with zipfile.ZipFile(folder / f"a/barograph-{__version__}-py3-none-any.whl") as wheel:
        assert "agent/schemas/asyncapi.yaml" in wheel.namelist()
        assert "simulator/demo/run.py" in wheel.namelist()
        assert not [name for name in wheel.namelist() if name.startswith(("tests/", "release/"))]
    with tarfile.open(folder / f"a/barograph-schemas-{__version__}.tar.gz") as schemas:
        member = schemas.extractfile("barograph-schemas/sample/v1/1.0.schema.json")
        assert member is not None
        assert json.load(member)["$schema"].endswith("2020-12/schema")
    assert (folder / "a/NOTES.md").read_text().startswith(f"# barograph {__version__}")


def test_a_rehearsal_goes_from_a_tag_to_an_installed_wheel(folder: Path) -> None:
    said = rehearse(folder / "dist", "9.8.7")

    assert said.rstrip().endswith("release: 9.8.7: rehearsed")
    assert "barograph-9.8.7-py3-none-any.whl: the same bytes twice" in said
    assert (folder / "dist/SHA256SUMS.sig").is_file()
    manifest = json.loads((folder / "dist/MANIFEST.json").read_text())
    assert (manifest["version"], manifest["tag"]) == ("9.8.7", "v9.8.7")
    assert {each["name"] for each in manifest["files"]} | {"MANIFEST.json"} == set(sums(folder / "dist"))
    notes = (folder / "dist/NOTES.md").read_text()
    assert notes.startswith("# barograph 9.8.7 (")
    assert "9.8.7" not in (ROOT / "CHANGELOG.md").read_text()
