"""Tests of what a tagged commit must have to be released, and of the documented way to verify a download."""

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import __version__
from release import image_archive, manifest, tagged
from release.running import Failed
from release.signature import PRINCIPAL, sign
from release.version import set_version, versions
from tests.contract import freeze

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/releasing.md").read_text()
COPIED = ("agent/__init__.py", "pyproject.toml", "streams/pyproject.toml", "helm/barograph/Chart.yaml")
CHANGELOG = """\
# Changelog

# barograph 9.8.7 (2026-12-01)

## Added

- This.

# barograph 0.1.0 (2026-01-01)

- That.
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The checked part of a tree, as `make release-commit VERSION=9.8.7` leaves it."""
    root = tmp_path / "tree"
    for name in COPIED:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    (root / "docs").mkdir()
    (root / "docs/install.md").write_text(f"apt install ./barograph_{__version__}_amd64.deb\n")
    (root / "README.md").write_text("")
    set_version(root, "9.8.7")
    (root / "CHANGELOG.md").write_text(CHANGELOG)
    (root / "changelog.d").mkdir()
    shutil.copytree(ROOT / "schemas", root / "schemas")
    freeze.freeze(root / "schemas")
    (root / "tests/data/releases/9.8.7").mkdir(parents=True)
    return root


def test_the_version_is_the_same_in_every_place() -> None:
    assert set(versions(ROOT).values()) == {__version__}


def test_the_version_is_set_in_every_place_and_in_the_names_of_files(tree: Path) -> None:
    assert set(versions(tree).values()) == {"9.8.7"}
    assert len(versions(tree)) == 5
    assert (tree / "docs/install.md").read_text() == "apt install ./barograph_9.8.7_amd64.deb\n"


@pytest.mark.parametrize("version", ["1.2", "v1.2.3", "1.2.3\n", ""])
def test_an_invalid_version_is_refused(tree: Path, version: str) -> None:
    with pytest.raises(ValueError, match="is not a version"):
        set_version(tree, version)
    assert set(versions(tree).values()) == {"9.8.7"}


def test_a_release_commit_with_its_tag_can_be_released(tree: Path) -> None:
    assert list(tagged.problems(tree, "v9.8.7")) == []


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda tree: (tree / name).write_text(text)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another version in a place": (
        write("pyproject.toml", 'version = "9.8.6"\n'),
        "pyproject.toml: 9.8.6 instead of 9.8.7",
    ),
    "no section": (write("CHANGELOG.md", "# Changelog\n"), "CHANGELOG.md: no section"),
    "a fragment": (write("changelog.d/+late.added.md", "Late.\n"), "changelog.d: 1 fragments are in no"),
    "a changed schema": (
        write("schemas/sample/v1/1.0.schema.json", "{}"),
        "schemas: released files have changed: sample/v1/1.0.schema.json",
    ),
    "a schema that is not frozen": (
        write("schemas/sample/v1/1.1.schema.json", "{}"),
        "schemas: 1 files are not frozen",
    ),
    "no recording": (
        lambda tree: (tree / "tests/data/releases/9.8.7").rmdir(),
        "tests/data/releases/9.8.7: missing",
    ),
}


@pytest.mark.parametrize(("change", "problem"), FAULTS.values(), ids=FAULTS)
def test_a_commit_that_lacks_something_is_refused(
    tree: Path, change: Callable[[Path], object], problem: str
) -> None:
    change(tree)

    (found,) = tagged.problems(tree, "v9.8.7")

    assert found.startswith(problem)


def test_another_tag_is_refused(tree: Path) -> None:
    (found,) = tagged.problems(tree, "v9.8.8")

    assert found.startswith("tag v9.8.8: the version in agent/__init__.py is 9.8.7")


def test_no_fragment_has_a_number_as_its_name_which_towncrier_would_take_for_an_issue() -> None:
    fragments = [each.name for each in (ROOT / "changelog.d").glob("*.md")]

    assert [name for name in fragments if not re.fullmatch(r"\+[a-z0-9-]+\.[a-z]+\.md", name)] == []


def test_the_notes_are_the_section_of_the_version() -> None:
    assert tagged.section(CHANGELOG, "9.8.7") == "# barograph 9.8.7 (2026-12-01)\n\n## Added\n\n- This.\n"
    assert tagged.section(CHANGELOG, "0.1.0") == "# barograph 0.1.0 (2026-01-01)\n\n- That.\n"
    assert tagged.section(CHANGELOG, "9.8") == ""


def image_archive_of(path: Path, build: str) -> Path:
    """Write an archive as podman does, with `build` wherever two builds of one image differ."""
    config = {
        "container": build,
        "config": {"Hostname": build, "User": "10001:10001"},
        "history": [{"created_by": "RUN true", "comment": f"FROM {build}"}],
        "rootfs": {"type": "layers", "diff_ids": ["sha256:1"]},
    }
    manifest = [{"Config": f"{build}.json", "RepoTags": ["localhost/barograph:9.8.7"], "Layers": ["1.tar"]}]
    files = {"1.tar": b"a layer", f"{build}.json": config, "manifest.json": manifest}
    with tarfile.open(path, "w") as archive:
        for name, value in files.items():
            content = value if isinstance(value, bytes) else json.dumps(value).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def test_an_image_of_the_same_layers_is_the_same_bytes(tmp_path: Path) -> None:
    archives = [image_archive_of(tmp_path / f"{build}.tar", build) for build in ("one", "two")]

    for archive in archives:
        image_archive.rewrite(archive)

    assert archives[0].read_bytes() == archives[1].read_bytes()
    with tarfile.open(archives[0]) as archive:
        files = {member.name: archive.extractfile(member) for member in archive}
        contents = {name: file.read() for name, file in files.items() if file is not None}
    (image,) = json.loads(contents["manifest.json"])
    assert contents[image["Layers"][0]] == b"a layer"
    assert image["Config"] == f"{hashlib.sha256(contents[image['Config']]).hexdigest()}.json"
    assert json.loads(contents[image["Config"]])["config"] == {"User": "10001:10001"}


# --- verifying a download ---


@pytest.fixture
def release(tmp_path: Path) -> Path:
    out = tmp_path / "dist"
    out.mkdir()
    for name in ("barograph-9.8.7-py3-none-any.whl", "barograph_9.8.7_amd64.deb", "NOTES.md"):
        (out / name).write_bytes(name.encode() * 100)
    manifest.write(out, "9.8.7", "f" * 40, "v9.8.7", 1_795_000_000)
    sign(out, new_key(tmp_path / "key"))
    public = (tmp_path / "key.pub").read_text()
    (out / "allowed_signers").write_text(f'{PRINCIPAL} namespaces="barograph-release" {public}')
    return out


def new_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


def verified(release: Path) -> bool:
    """Run the commands of the page as written; return whether they succeed."""
    found = re.search(r"## Verify a download\n.*?```console\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    words = ["bash", "-e", "-c", found[1]]
    return subprocess.run(words, cwd=release, check=False, capture_output=True).returncode == 0


def test_the_documented_commands_accept_a_release_and_a_part_of_it(release: Path) -> None:
    assert verified(release)

    (release / "barograph_9.8.7_amd64.deb").unlink()
    assert verified(release)


@pytest.mark.parametrize(
    "name", ["barograph-9.8.7-py3-none-any.whl", "NOTES.md", manifest.MANIFEST, manifest.SUMS]
)
def test_the_documented_commands_refuse_an_altered_byte(release: Path, name: str) -> None:
    content = bytearray((release / name).read_bytes())
    content[10] ^= 1
    (release / name).write_bytes(content)

    assert not verified(release)


def test_the_documented_commands_refuse_the_signature_of_another_key(release: Path, tmp_path: Path) -> None:
    (release / manifest.SIGNATURE).unlink()
    sign(release, new_key(tmp_path / "other"))

    assert not verified(release)


def test_ssh_can_read_the_file_of_allowed_signers() -> None:
    lines = [each for each in (ROOT / "release/allowed_signers").read_text().splitlines() if each[:1] != "#"]

    assert [each for each in lines if not each.startswith(f"{PRINCIPAL} ")] == []


def test_a_file_of_an_unknown_kind_is_refused(release: Path) -> None:
    with pytest.raises(Failed, match=r"allowed_signers: no part of a release"):
        manifest.write(release, "9.8.7", "f" * 40, None, 1_795_000_000)
