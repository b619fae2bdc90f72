"""Copy a file of `virsh save` with another definition, so that many domains share one boot.

`virsh restore --xml` does not accept another name or UUID. The layout is that of libvirt's
`src/qemu/qemu_saveimage.h`: a header, the definition and a cookie, both ended by a NUL, and QEMU's stream.
"""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

_HEADER = struct.Struct("=16s5I56x")
_MAGIC = b"LibvirtQemudSave"
_VERSION = 2


def copy_as(saved: Path, to: Path, redefine: Callable[[str], str]) -> None:
    """Copy a saved domain with the definition that `redefine` returns for the saved one.

    Raises:
        RuntimeError: libvirt did not write the file, or it has another layout.
    """
    with saved.open("rb") as source, to.open("xb") as target:
        magic, version, length, *flags, cookie_at = _HEADER.unpack(source.read(_HEADER.size))
        if (magic, version) != (_MAGIC, _VERSION):
            raise RuntimeError(f"{saved}: not a saved domain of a known version: {magic!r} {version}")
        data = source.read(length)
        definition, _, _ = data.partition(b"\0")
        cookie = data[cookie_at:].rstrip(b"\0") + b"\0" if cookie_at else b""
        renamed = redefine(definition.decode()).encode() + b"\0"
        start = len(renamed) if cookie_at else 0
        target.write(_HEADER.pack(magic, version, len(renamed) + len(cookie), *flags, start))
        target.write(renamed + cookie)
        shutil.copyfileobj(source, target, 1 << 20)
