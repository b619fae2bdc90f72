"""Tests of finding the file system of a path, in a made-up list of mounts and in the real one."""

from pathlib import Path

from agent.host.mounts import Mount, mount_of

MOUNTS = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
23 22 0:21 / /srv rw - tmpfs tmpfs rw
24 23 0:22 / /srv/with\040space rw,noatime master:1 - nfs4 server:/x rw
25 22 0:23 /a\040b /srv rw - xfs /dev/sdb rw
a broken line
"""


def listed(tmp_path: Path) -> str:
    file = tmp_path / "mountinfo"
    file.write_text(MOUNTS)
    return str(file)


def test_the_longest_mount_applies_and_the_later_of_two_at_one_place(tmp_path: Path) -> None:
    mounts = listed(tmp_path)

    assert mount_of("/srv/state", mounts) == Mount("/srv", "xfs", "/a b")
    assert mount_of("/srv2", mounts) == Mount("/", "ext4")
    assert mount_of("/srv/with space/state", mounts) == Mount("/srv/with space", "nfs4")


def test_the_real_list_has_the_file_system_in_memory(tmp_path: Path) -> None:
    shared = mount_of("/dev/shm")

    assert shared is not None
    assert shared.type == "tmpfs"
    assert mount_of("/", str(tmp_path / "missing")) is None
