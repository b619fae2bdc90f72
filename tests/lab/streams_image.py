"""The image of the stream jobs, built by podman from streams/Containerfile.

Its base has the contents of Flink's own image: Ubuntu, Java and Flink's distribution, which comes from
Flink's Python package. Flink's own image is not available without a registry.
"""

import shutil
import tempfile
from pathlib import Path

from tests.lab import flink
from tests.lab.cache import locked, run, say
from tests.lab.image import BUILD_OPTIONS, CHECKOUT_LABEL, NAME, PODMAN, ROOT, have_base

STREAMS_NAME = NAME.replace("barograph:", "barograph-streams:")
_BASE = "localhost/barograph-flink:lab"

# Java's package writes its own form of the certificates; with the overlay, not to the machine.
_OPTIONS = tuple(word.replace("/certs:ro", "/certs:O") for word in BUILD_OPTIONS)
_PARTS = ("bin", "conf", "lib", "opt", "plugins")
_BASE_CONTAINERFILE = """
FROM {suite}
RUN mkdir -p /usr/share/man/man1 && apt-get update -qq \\
 && apt-get install -qq -y --no-install-recommends openjdk-17-jre-headless
RUN groupadd --gid=9999 flink && useradd --home-dir=/opt/flink --uid=9999 --gid=flink flink
COPY --chown=9999:9999 flink /opt/flink
ENV FLINK_HOME=/opt/flink JAVA_HOME=/usr/lib/jvm/java-17-openjdk-amd64 PATH=/opt/flink/bin:$PATH
WORKDIR /opt/flink
"""


def streams_image() -> str:
    """Build the image again if its sources have changed, and return its name."""
    with locked("streams-image"), tempfile.TemporaryDirectory() as folder:
        package = flink.package()
        for part in _PARTS:
            shutil.copytree(package / part, Path(folder) / "flink" / part)
        (Path(folder) / "Containerfile").write_text(_BASE_CONTAINERFILE.format(suite=have_base("noble")))
        say("building the image of the stream jobs, three minutes the first time")
        run([*PODMAN, "build", *_OPTIONS, "--tag", _BASE, folder])
        run(
            [
                *(*PODMAN, "build", *_OPTIONS, "--build-arg", f"BASE={_BASE}"),
                *("--label", f"{CHECKOUT_LABEL}={ROOT}", "--tag", STREAMS_NAME, ROOT / "streams"),
            ]
        )
    return STREAMS_NAME
