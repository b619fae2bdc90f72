"""Tests of the settings that choose VMs, and of the interval and policy of single entries."""

import sys
from pathlib import Path

import pytest

from agent.config import Config, Flags, load
from agent.config.choice_sections import RULES_MAX
from agent.core.choice import Choice, Rule
from agent.core.reading import IntervalPolicy
from agent.errors import ConfigError

ENVIRON = {"BAROGRAPH_HOST__ID": "9b1d4c1f0e6a4f0fa1f6f1c6c9a4b7d2", "HOME": "/home/agent"}
UUID = "5F0C0000-0000-0000-0000-000000000001"


def loaded(tmp_path: Path, text: str, **environ: str) -> Config:
    file = tmp_path / "b.yaml"
    file.write_text(text)
    return load(Flags(config=str(file)), {**ENVIRON, **environ})


def test_rules_are_sections_or_text(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        f"""
monitors: [/run/vm/*.qmp]
vms:
  include:
    - name: web-*
      labels: {{customer: acme}}
  exclude: ["canary-?", /run/vm/test-*.qmp, "{UUID}", "qemu:///system#*", {{uuid: 5F*}}]
""",
    )

    assert config.polling_settings().choice == Choice(
        include=(Rule(name="web-*", labels={"customer": "acme"}),),
        exclude=(
            Rule(name="canary-?"),
            Rule(path="/run/vm/test-*.qmp"),
            Rule(uuid=UUID.lower()),
            Rule(path="qemu:///system#*"),
            Rule(uuid="5f*"),
        ),
    )


def test_rules_are_text_in_a_variable(tmp_path: Path) -> None:
    config = loaded(tmp_path, "monitors: [/run/a.qmp]", BAROGRAPH_VMS__EXCLUDE="db-*, /run/vm/x.qmp")

    assert config.choice.exclude == (Rule(name="db-*"), Rule(path="/run/vm/x.qmp"))


def test_more_rules_than_the_bound_are_refused(tmp_path: Path) -> None:
    rules = ", ".join(f"vm-{number}" for number in range(RULES_MAX + 1))
    with pytest.raises(
        ConfigError, match=rf"vms.exclude: {RULES_MAX + 1} rules, more than {RULES_MAX}; join"
    ):
        loaded(tmp_path, f"monitors: [/run/a.qmp]\nvms: {{exclude: [{rules}]}}")


def test_an_entry_has_an_interval_and_a_policy_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libvirt.py").touch()  # as if libvirt-python were installed
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    config = loaded(
        tmp_path,
        """
monitors: [/run/a/*.qmp, {glob: /run/b/*.qmp, interval: 60s, policy: observe}]
libvirt: [qemu:///system, {uri: 'qemu:///session', interval: 1m, policy: enforce}]
polling: {interval: 5s}
""",
    )

    monitors = config.discovery_settings().monitors
    places = config.libvirt_settings().places
    assert [(each.interval_s, each.policy) for each in monitors] == [
        (None, None),
        (60, IntervalPolicy.OBSERVE),
    ]
    assert [(each.interval_s, each.policy) for each in places] == [
        (None, IntervalPolicy.FILL),
        (60, IntervalPolicy.ENFORCE),
    ]
