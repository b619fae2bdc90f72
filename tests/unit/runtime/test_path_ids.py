"""Tests that a VM without a uuid has one id, however the path of its monitor is spelled."""

import os
from pathlib import Path

import pytest

from agent.core.address import Domain, MonitorPath
from agent.runtime.fleet import canonical, path_id


@pytest.mark.parametrize("spelling", ["web.qmp", "../vm/web.qmp", "{0}/vm//web.qmp", "{0}/link/web.qmp"])
def test_each_spelling_of_a_path_is_the_same_vm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    root = os.path.realpath(tmp_path)
    (tmp_path / "vm").mkdir()
    (tmp_path / "link").symlink_to("vm")
    monkeypatch.chdir(tmp_path / "vm")
    plain = MonitorPath(f"{root}/vm/web.qmp")
    spelled = MonitorPath(spelling.format(root))

    assert canonical(spelled) == plain
    assert canonical(MonitorPath(f"{spelled}/")) == plain
    assert path_id("host", spelled) == path_id("host", plain) != path_id("other", plain)


def test_a_domain_has_only_one_spelling() -> None:
    domain = Domain("qemu:///system", "5f0c0000-0000-0000-0000-000000000001")

    assert canonical(domain) is domain
