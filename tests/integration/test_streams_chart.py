"""Tests that the manifests of the stream jobs' chart conform to the CRD of the Flink Kubernetes Operator."""

import json
import re
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
import yaml

from barograph_streams.core.jobs import JOBS
from tests.integration.conftest import need
from tests.lab.helm import KUBERNETES, helm
from tests.lab.kubernetes import Node

ROOT = Path(__file__).parents[2]
STREAMS = ROOT / "streams"
CHART = STREAMS / "deploy/barograph-streams"
CRD = ROOT / "tests/data/flinkdeployments.crd.yaml"
NEEDED = "image=registry.example/barograph-streams:0.1.0,storage=s3://b/s,kafka.bootstrapServers=kafka:9092"


def rendered(more: str = "kafka.secret=kafka") -> list[dict[str, Any]]:
    """Return the manifests of the chart."""
    need("helm")
    text = helm("template", "barograph", CHART, "--kube-version", KUBERNETES, "--set", f"{NEEDED},{more}")
    return list(yaml.safe_load_all(text))


def closed(schema: object) -> object:
    """Return a CRD's schema that refuses unknown fields, as the API server does with strict validation."""
    if isinstance(schema, list):
        return [closed(each) for each in cast(list[object], schema)]
    if not isinstance(schema, dict):
        return schema
    made = {name: closed(each) for name, each in cast(dict[str, object], schema).items()}
    if "properties" in made and not made.get("x-kubernetes-preserve-unknown-fields"):
        made["additionalProperties"] = False
    return made


def schema_of_the_spec() -> Any:
    """Return the closed schema of a FlinkDeployment's spec."""
    version = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]
    return closed(version["schema"]["openAPIV3Schema"]["properties"]["spec"])


@pytest.mark.parametrize("more", ["kafka.secret=kafka", "jobs.leak=null", "taskManager.memory=4g"])
def test_each_job_is_a_deployment_that_the_crd_allows(more: str) -> None:
    manifests = rendered(more)

    for each in manifests:
        jsonschema.validate(each["spec"], schema_of_the_spec())
        assert each["spec"]["job"]["upgradeMode"] == "savepoint"
        assert each["spec"]["flinkConfiguration"]["taskmanager.numberOfTaskSlots"] == "1"
    jobs = {each["metadata"]["labels"]["app.kubernetes.io/component"] for each in manifests}
    assert jobs <= JOBS.keys()
    assert (
        len(jobs)
        == len(manifests)
        == len(yaml.safe_load((CHART / "values.yaml").read_text())["jobs"]) - ("null" in more)
    )


def test_the_image_is_built_from_a_folder_with_all_files_that_it_copies() -> None:
    """The root of the tree has a .containerignore that leaves out streams/."""
    copied = re.findall(r"^COPY (?!--from)(\S+) ", (STREAMS / "Containerfile").read_text(), re.MULTILINE)
    commands = re.findall(r"^podman build .*", (ROOT / "docs/streams.md").read_text(), re.MULTILINE)

    assert len(copied) >= 3
    assert [name for name in copied if not (STREAMS / name).exists()] == []
    assert [command.split()[-1] for command in commands] == [STREAMS.name]


def test_values_without_a_default_must_be_set() -> None:
    need("helm")
    for name in ("image", "storage", "kafka.bootstrapServers"):
        with pytest.raises(RuntimeError, match=name):
            helm("template", "b", CHART, "--kube-version", KUBERNETES, "--set", f"{NEEDED},{name}=")


@pytest.mark.long
@pytest.mark.alone
@pytest.mark.timeout(900)
def test_a_real_api_server_accepts_the_manifests_and_refuses_an_unknown_field(node: Node) -> None:
    node.kubectl("apply", "--filename", str(CRD))
    node.kubectl("wait", "--for=condition=Established", "crd/flinkdeployments.flink.apache.org")
    manifests = rendered()
    for each in manifests:
        node.kubectl("apply", "--validate=strict", "--filename=-", stdin=json.dumps(each))
    manifests[0]["spec"]["job"]["parallelsim"] = 2

    with pytest.raises(RuntimeError, match="parallelsim"):
        node.kubectl("apply", "--validate=strict", "--filename=-", stdin=json.dumps(manifests[0]))
    kept = node.get("flinkdeployments")["items"]
    assert {each["metadata"]["name"] for each in kept} == {each["metadata"]["name"] for each in manifests}
    node.kubectl("delete", "crd/flinkdeployments.flink.apache.org")
