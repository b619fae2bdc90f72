"""Create images of single files or folders without a builder."""

import io
import json
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def docker_archive(
    archive: Path,
    name: str,
    files: Mapping[str, Path],
    *,
    entrypoint: Sequence[str] = (),
    env: Sequence[str] = (),
) -> None:
    """Write an image with one layer of files or whole folders, in the format of `docker save`."""
    layer = archive.with_suffix(".layer")
    with tarfile.open(layer, "w") as content:
        for place, file in files.items():
            content.add(file, place)
    digest = subprocess.run(["sha256sum", layer], check=True, capture_output=True, text=True).stdout.split()[
        0
    ]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": list(entrypoint), "Env": list(env)},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as whole:
        for place, value in {"config.json": config, "manifest.json": manifest}.items():
            content_bytes = json.dumps(value).encode()
            entry = tarfile.TarInfo(place)
            entry.size = len(content_bytes)
            whole.addfile(entry, io.BytesIO(content_bytes))
        whole.add(layer, "layer.tar")
    layer.unlink()
