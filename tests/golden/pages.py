"""Golden records of `/status`, `/healthz`, `/metrics` and the page, with monitors and a domain."""

import json
import re
from collections.abc import Sequence

from structlog.testing import capture_logs

from agent.contract.encode import Mode
from agent.core.health import Component, Health
from agent.core.reading import State, VmView
from agent.runtime.recorder import Recorder
from agent.telemetry import Count, Counters, Levels
from agent.web.documents import health_document, status_parts
from agent.web.exposition import OPENMETRICS, PLAIN, metrics_parts
from agent.web.page import page_parts
from tests.golden import documents, scenarios
from tests.golden.scenarios import AGENT, Told
from tests.golden.texts import Texts
from tests.unit.web.client import Present

NOW_MS = 1_795_400_100_250


def _reporting() -> Told:
    story = Told(path="/run/vm/reporting.qmp", labels={"vmid": "107"})
    for step in range(3):
        story.update(
            free_memory=10 << 20, available_memory=20 << 20, total_memory=1 << 30, major_faults=7 + step,
            swap_in=4096, disk_caches=5, oom_kill=0, a_new_name=3,
        )  # fmt: skip
        if not story.told:
            story.start()
        story.pass_s(1)
    return story


def _in_state(tell: str, uuid: str | None) -> Told:
    story = Told(path=f"/run/vm/{tell}.qmp", uuid=uuid)
    match tell:
        case "waiting" | "stalled":
            if tell == "stalled":
                story.update()
            story.start()
            story.pass_s(20)
        case "paused":
            story.update()
            story.start()
            story.stop()
        case "no-balloon":
            story.balloon_path = None
            story.start()
        case "no-greeting":
            story.mute = True
            story.start()
            story.be_silent("no <greeting> & \u202e none")
        case _:
            raise AssertionError(tell)
    return story


def _domain() -> Told:
    story = Told(
        path=scenarios.DOMAIN, uuid=scenarios.DOMAIN_UUID, mark=scenarios.DOMAIN_MARK, balloon_path="balloon0"
    )
    for _ in range(3):
        story.update(free_memory=1024 << 10, total_memory=4096 << 10, available_memory=2048 << 10)
        if not story.told:
            story.start()
        story.pass_s(1)
    return story


def views() -> Sequence[VmView]:
    """Return the views of the board after all stories."""
    uuids = {
        "waiting": "5f0c0000-0000-0000-0000-000000000002",
        "stalled": "5f0c0000-0000-0000-0000-000000000003",
        "paused": None,
        "no-balloon": "5f0c0000-0000-0000-0000-000000000005",
        "no-greeting": "5f0c0000-0000-0000-0000-000000000006",
    }
    stories = [_reporting(), *(_in_state(tell, uuid) for tell, uuid in uuids.items()), _domain()]
    recorder = Recorder(AGENT, Mode.BINARY, (), Counters())
    with capture_logs():
        for story in stories:
            documents.retell(story, recorder)
    return recorder.views()


def present() -> Present:
    """Return the data that the pages get from the agent."""
    counters = Counters()
    counters.add(Count.READINGS, 41)
    counters.add(Count.SAMPLES, 12)
    counters.add(Count.LINK_FAILURES, 2, reason="hung_up")
    counters.add(Count.DROPPED, 3, reason="kafka.samples:full")
    counters.add(Count.DROPPED, 1, reason="of no list")
    for lag_s in (0.0005, 0.004, 60.0):
        counters.lag.record(lag_s)
    levels = Levels(
        waiting={"kafka.samples": 2, "kafka.states": 0, "kafka.memory": 0},
        oldest_age_s={"kafka.samples": 1.5},
        vms={State.REPORTING: 2, State.STALLED: 1},
        components={"discovery": Health.OK, "kafka.samples": Health.DEGRADED},
        spool_used_bytes=28672,
        spool_limit_bytes=1 << 30,
        dead_letters=1,
        cpu_s=1.25,
        memory_bytes=50 << 20,
        descriptors=17,
        host_memory=documents.HOST_MEMORY_EVENT,
    )
    parts = {
        "discovery": Component(Health.OK, "7 monitors watched, 0 refused", 1_795_400_000_000),
        "kafka.samples": Component(Health.DEGRADED, "no broker", 1_795_400_060_000),
        "otlp": Component(Health.STARTING, "nothing sent yet", 1_795_400_000_000),
    }
    return Present(
        views=views(),
        host_memory=documents.HOST_MEMORY_EVENT,
        identity=AGENT,
        counters=counters,
        levels=levels,
        components=parts,
    )


def made() -> dict[str, str]:
    """Return the recorded files."""
    now = present()
    texts = Texts()
    status = "".join(status_parts(now.agent(), AGENT, now.components, now.host_memory, now.views, NOW_MS))
    health = json.dumps(health_document(now.components))
    files = {
        "pages/status.json": _indented(texts.out_of(status)),
        "pages/healthz.json": _indented(texts.out_of(health)),
        "texts/pages/page.html": "".join(page_parts(now.agent(), AGENT, now.components, now.views, NOW_MS)),
    }
    files["texts/pages/documents.txt"] = texts.file()
    for form, name in ((OPENMETRICS, "openmetrics"), (PLAIN, "plain")):
        text = "".join(metrics_parts(now.telemetry(), now.views, AGENT, form))
        files[f"pages/metrics.{name}.txt"] = f"{form.content_type}\n" + re.sub(
            r"(# HELP \S+) .*", r"\1", text
        )
        files[f"texts/pages/metrics.{name}.txt"] = "".join(re.findall(r"# HELP .*\n", text))
    return files


def _indented(text: str) -> str:
    """Return indented JSON, with its members in the original order."""
    return json.dumps(json.loads(text), indent=1) + "\n"
