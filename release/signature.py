"""Signs SHA256SUMS with an SSH key, and verifies it with the commands of docs/releasing.md.

ssh-keygen(1): -Y sign, -Y verify. The namespace keeps a signature made for another purpose out.
"""

from pathlib import Path

from release.manifest import SIGNATURE, SUMS
from release.running import run

NAMESPACE = "barograph-release"
PRINCIPAL = "release@barograph"


def sign(out: Path, key: Path) -> None:
    """Write SHA256SUMS.sig.

    Args:
        out: the folder of the release.
        key: the private key, or a public key whose private key an SSH agent has.

    Raises:
        Failed: it cannot be signed.
    """
    run("ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", NAMESPACE, out / SUMS)


def verify(out: Path, allowed_signers: Path) -> None:
    """Check the signature and the files.

    Raises:
        Failed: the signature is of none of the keys, or a file has changed.
    """
    words = ("-Y", "verify", "-f", allowed_signers, "-I", PRINCIPAL, "-n", NAMESPACE, "-s", out / SIGNATURE)
    run("ssh-keygen", *words, stdin=(out / SUMS).read_bytes())
    run("sha256sum", "--check", "--strict", "--quiet", SUMS, cwd=out)
