"""The image: podman builds it from the tree's Containerfile on a base that is built here, and runc runs it.

No image comes from a registry. The image store is in the lab's cache; no other store is touched.
"""

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from agent import __version__
from tests.lab import debian
from tests.lab.cache import cache, locked, made, place, run, say

ROOT = Path(__file__).parents[2]
_CHECKOUT = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
NAME = f"localhost/barograph:lab-{_CHECKOUT}"
"""Each checkout has its own image, so that tests of two checkouts can run at the same time."""
NAME_LIBVIRT = f"{NAME}-libvirt"
BASE = "localhost/barograph-base:lab"

BUILD_OPTIONS = (
    *("--quiet", "--pull=never", "--isolation=chroot", "--network=host", "--format=docker"),
    *("--volume", "/etc/ssl/certs:/etc/ssl/certs:ro"),
)
"""The options of `podman build` for a build without a registry, with the machine's certificates."""

_PACKAGES = ("podman", "runc", "debootstrap", "ca-certificates")
BASE_INPUTS = "1 bookworm python3 python3-venv ca-certificates"
_NEEDLESS = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")
_BUILT_FROM = (
    "Containerfile", "agent", "simulator", "schemas", "pyproject.toml", "README.md", "LICENSE",
    "requirements.lock", "requirements-build.lock",
)  # fmt: skip
_BUILT_FROM_LABEL = "barograph.lab.built-from"
CHECKOUT_LABEL = "barograph.lab.checkout"
_KEPT = 6


def tools() -> None:
    """Install the tools that build and run images."""
    debian.install(
        list(_PACKAGES),
        "builds the image and runs it",
        there=lambda: all(shutil.which(n) for n in _PACKAGES[:3]),
    )


def there() -> bool:
    """Return whether the tools and the base exist, so that an image can be built."""
    return all(shutil.which(name) for name in _PACKAGES[:3]) and place("image-base", BASE_INPUTS).is_dir()


def base(suite: str = "bookworm", architecture: str = "amd64") -> Path:
    """Return the tar file of the base's file system: a minimal Debian or Ubuntu with Python."""
    inputs = BASE_INPUTS.replace("bookworm", suite) + ending(architecture)
    with made("image-base", inputs) as work:
        if work is not None:
            tools()
            say(f"making a base for images: a small {suite} for {architecture} with Python, a minute")
            with tempfile.TemporaryDirectory(dir=cache()) as folder:
                root = Path(folder) / "root"
                packages = ("python3", "python3-venv", "ca-certificates")
                debian.bootstrap(suite, root, packages, architecture)
                for needless in _NEEDLESS:
                    shutil.rmtree(root / needless)
                    (root / needless).mkdir()
                run(["tar", "--numeric-owner", "-C", root, "-cf", work / "base.tar", "."])
    return place("image-base", inputs) / "base.tar"


def have_base(suite: str = "bookworm", architecture: str = "amd64") -> str:
    """Import the base into the store if it is missing, and return its name."""
    name = (BASE if suite == "bookworm" else f"{BASE}-{suite}") + ending(architecture)
    with locked("image-base-import"):
        if podman("image", "exists", name).returncode:
            run([*PODMAN, "import", "--quiet", f"--arch={architecture}", base(suite, architecture), name])
    return name


def ending(architecture: str) -> str:
    """Return the end of the names of the images for an architecture."""
    return "" if architecture == "amd64" else f"-{architecture}"


def image(name: str = NAME, architecture: str = "amd64") -> str:
    """Build an image if the tree has changed since its last build, and return its name.

    Args:
        name: `NAME`, or `NAME_LIBVIRT`, which can also observe libvirt's domains.
        architecture: `amd64`, or `arm64`; its build and its containers need `emulation.arm64`.
    """
    libvirt = "yes" if name == NAME_LIBVIRT else "no"
    name += ending(architecture)
    with locked("image"):
        if _label(name, _BUILT_FROM_LABEL) != _inputs():
            base = have_base(architecture=architecture)
            say("building the image, about a minute")
            run(
                [
                    *PODMAN,
                    "build",
                    *BUILD_OPTIONS,
                    f"--platform=linux/{architecture}",
                    *("--build-arg", f"BASE={base}", "--file", ROOT / "Containerfile"),
                    "--build-arg",
                    f"VERSION={__version__}",
                    "--build-arg",
                    f"LIBVIRT={libvirt}",
                    "--label",
                    f"{_BUILT_FROM_LABEL}={_inputs()}",
                    "--label",
                    f"{CHECKOUT_LABEL}={ROOT}",
                    "--tag",
                    name,
                    ROOT,
                ]
            )
            _remove_images_of_deleted_checkouts()
            # Keep each layer for a day. It fails while another checkout removes an image.
            podman("image", "prune", "--force", "--filter=until=24h")
    return name


def _remove_images_of_deleted_checkouts() -> None:
    listed = run([*PODMAN, "images", "--format=json", "--filter", f"label={CHECKOUT_LABEL}"])
    for each in cast(list[dict[str, Any]], json.loads(listed)):
        if not Path(each["Labels"][CHECKOUT_LABEL]).is_dir():
            podman("image", "rm", each["Id"])  # fails while a container uses it


def image_tar(name: str = NAME) -> Path:
    """Return an image as a file of `podman save`, for the store of another machine or daemon."""
    image(name)
    path = cache() / f"image-{name.rpartition(':')[2]}-{_label(name, _BUILT_FROM_LABEL)}.tar"
    with locked("image-tar"):
        if not path.exists():
            half = path.with_suffix(".half")
            half.unlink(missing_ok=True)
            run([*PODMAN, "save", "--quiet", "--format=docker-archive", "--output", half, name])
            half.rename(path)
            for old in sorted(cache().glob("image-*.tar"), key=lambda each: each.stat().st_mtime)[:-_KEPT]:
                old.unlink(missing_ok=True)
    return path


def run_argv(*options: str, image: str = NAME) -> list[str]:
    """Return the beginning of a command that runs the image as intended: without any privileges.

    Args:
        options: further options of `podman run`. The arguments of the image follow the result.
        image: its name.
    """
    return [
        *(*PODMAN, "--runtime=runc", "run", "--rm", "--no-healthcheck", "--network=host"),
        *("--read-only", "--cap-drop=all"),
        *("--security-opt=no-new-privileges", "--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096"),
        *options,
        image,
    ]


def podman(*words: str) -> subprocess.CompletedProcess[str]:
    """Run podman on the lab's images to its end."""
    return subprocess.run([*PODMAN, *words], check=False, capture_output=True, text=True, timeout=300)


def inspect(name: str) -> dict[str, Any]:
    """Return the metadata of an image."""
    return cast(list[dict[str, Any]], json.loads(run([*PODMAN, "image", "inspect", name])))[0]


PODMAN = (
    *("podman", "--root", str(cache() / "containers"), "--runroot", str(cache() / "containers-run")),
    *("--cgroup-manager=cgroupfs", "--events-backend=none"),
)
"""The podman command with the lab's own store."""


def _label(image: str, name: str) -> str | None:
    if podman("image", "exists", image).returncode:
        return None
    return cast(str | None, inspect(image)["Labels"].get(name))


def _inputs() -> str:
    """Return a digest of all files that the image is built from."""
    digest = hashlib.sha256(BASE_INPUTS.encode())
    for path in sorted(_files()):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:40]


def _files() -> Iterator[Path]:
    for name in _BUILT_FROM:
        path = ROOT / name
        found = path.rglob("*") if path.is_dir() else (path,)
        yield from (each for each in found if each.is_file() and each.suffix != ".pyc")
