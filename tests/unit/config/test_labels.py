"""Tests of constant labels, from the setting and OpenTelemetry's variable, and of labels of domains."""

import sys
from pathlib import Path

import pytest

from agent.config import Config, Flags, load
from agent.libvirt.qmp_terms import LabelSources, MetadataLabel

ENVIRON = {"BAROGRAPH_HOST__ID": "9b1d4c1f0e6a4f0fa1f6f1c6c9a4b7d2", "HOME": "/home/agent"}
FILE = "monitors: [/run/a.qmp]\n"


def loaded(tmp_path: Path, text: str = FILE, **environ: str) -> Config:
    file = tmp_path / "b.yaml"
    file.write_text(text)
    return load(Flags(config=str(file)), {**ENVIRON, **environ})


def test_labels_are_a_section_or_pairs_in_a_variable(tmp_path: Path) -> None:
    text = FILE + "labels: {cluster: eu-1, k8s.cluster.name: a}"

    assert loaded(tmp_path, text).labels == {"cluster": "eu-1", "k8s.cluster.name": "a"}
    assert loaded(tmp_path, BAROGRAPH_LABELS="cluster=eu-1, note=a%2Cb%3Dc").labels == {
        "cluster": "eu-1",
        "note": "a,b=c",
    }


def test_resource_attributes_are_labels_and_the_setting_overrides_them(tmp_path: Path) -> None:
    variable = "service.name=x,host.id=y,k8s.cluster.name=b,deployment.environment.name=%C3%A4%20b,"
    config = loaded(tmp_path, FILE + "labels: {k8s.cluster.name: a}", OTEL_RESOURCE_ATTRIBUTES=variable)

    assert config.labels == {"k8s.cluster.name": "a", "deployment.environment.name": "ä b"}
    assert config.cautions == ()


def test_resource_attributes_are_not_read_where_the_sdk_is_disabled(tmp_path: Path) -> None:
    config = loaded(tmp_path, OTEL_RESOURCE_ATTRIBUTES="a=b", OTEL_SDK_DISABLED="true")

    assert config.labels == {}


@pytest.mark.parametrize(
    ("variable", "says"),
    [
        ("a=b,c", "ignored: 'c' is not NAME=VALUE"),
        ("a=b,c=%zz", "ignored: 'c=%zz' has a % that does not begin an escape"),
        ("a=b,c=%ff", "ignored: 'c=%ff' is not UTF-8"),
    ],
)
def test_resource_attributes_that_cannot_be_parsed_are_ignored_as_a_whole(
    variable: str, says: str, tmp_path: Path
) -> None:
    config = loaded(tmp_path, OTEL_RESOURCE_ATTRIBUTES=variable)

    (warning,) = config.cautions
    assert config.labels == {}
    assert warning.place == "OTEL_RESOURCE_ATTRIBUTES"
    assert warning.message.startswith(says)


def test_a_resource_attribute_that_is_not_a_label_is_ignored_alone(tmp_path: Path) -> None:
    many = ",".join(f"a{number}=1" for number in range(40))
    config = loaded(tmp_path, OTEL_RESOURCE_ATTRIBUTES=f"app/name=x,a.b=1,a_b=2,{many}")

    assert len(config.labels) == 32
    assert "a_b" not in config.labels
    assert len(config.cautions) == 1 + 1 + 9
    assert config.cautions[0].message.startswith("'app/name' is ignored: 'app/name' is not a label name")


def test_labels_of_domains_come_from_their_name_and_their_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libvirt.py").touch()  # as if libvirt-python were installed
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    config = loaded(
        tmp_path,
        """
libvirt:
  - uri: qemu:///system
    name_pattern: '^(?P<namespace>[^_]+)_(?P<vmi>.+)$'
    metadata:
      flavor: {uri: 'http://openstack.org/xmlns/libvirt/nova/1.1', path: instance/flavor/@name}
""",
    )

    (place,) = config.libvirt_settings().places
    flavor = MetadataLabel("flavor", "http://openstack.org/xmlns/libvirt/nova/1.1", "instance/flavor/@name")
    assert place.label_sources == LabelSources((flavor,), "^(?P<namespace>[^_]+)_(?P<vmi>.+)$")
