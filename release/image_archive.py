"""Rewrites the archive of an image so that the same layers give the same bytes.

podman writes the ids of the build's containers into the image's configuration, even with --timestamp. The
layers do not contain them.
"""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from release.running import Failed


def rewrite(archive: Path) -> None:
    """Replace the ids in an archive with one image, as `podman save --format=docker-archive` writes it.

    Raises:
        Failed: it is not such an archive.
    """
    rewritten = archive.with_suffix(".rewritten")
    try:
        with tarfile.open(archive) as source, tarfile.open(rewritten, "w") as target:
            _copy(source, target)
        rewritten.replace(archive)
    except (KeyError, ValueError, tarfile.TarError) as error:
        raise Failed(f"{archive}: not an archive with one image: {error}") from error
    finally:
        rewritten.unlink(missing_ok=True)


def _copy(source: tarfile.TarFile, target: tarfile.TarFile) -> None:
    (image,) = json.loads(_content(source, "manifest.json"))
    config = _encoded(_without_ids(json.loads(_content(source, image["Config"]))))
    image["Config"] = f"{hashlib.sha256(config).hexdigest()}.json"
    _add(target, "manifest.json", _encoded([image]))
    _add(target, image["Config"], config)
    for name in dict.fromkeys(image["Layers"]):
        layer = source.getmember(name)
        if not layer.isreg():
            raise ValueError(f"{name} is not a regular file")
        entry = tarfile.TarInfo(name)
        entry.size = layer.size
        target.addfile(entry, source.extractfile(layer))


def _without_ids(config: dict[str, Any]) -> dict[str, Any]:
    """Return an image's configuration without what differs from build to build.

    Its fields: github.com/moby/docker-image-spec.
    """
    kept = {
        name: value
        for name, value in config.items()
        if name not in ("container", "container_config", "parent")
    }
    kept["config"] = {
        name: value for name, value in config["config"].items() if name not in ("Hostname", "Image")
    }
    kept["history"] = [
        {name: value for name, value in step.items() if name != "comment"} for step in config["history"]
    ]
    return kept


def _content(source: tarfile.TarFile, name: str) -> bytes:
    file = source.extractfile(name)
    if file is None:
        raise Failed(f"{name}: not a file in the image's archive")
    return file.read()


def _encoded(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _add(target: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    target.addfile(entry, io.BytesIO(content))
