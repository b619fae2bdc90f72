"""Tests of which VMs are observed: the decision for rules and traits, and a poller that follows it."""

from collections.abc import Mapping

import pytest

from agent.core.address import Domain, MonitorPath
from agent.core.choice import EVERY_VM, OBSERVED, OPEN, Choice, Decision, Outcome, Rule, Traits, decide
from agent.core.events import (
    CloseLink,
    EmitSample,
    Forget,
    LinkFailed,
    OpenLink,
    PathMissing,
    Retire,
    Retired,
)
from agent.core.fleet import Fleet, Start, ended, scanned
from agent.core.poller import Poller, PollSettings, begin, remember
from agent.core.reading import Access, SocketMark, State, VmId
from agent.errors import LinkFault
from tests.unit.core.driving import MARK, Story, reporting

UUID = "5f0c0000-0000-0000-0000-000000000001"
FOUND = Traits("/run/vm/web-1.qmp", {"customer": "acme"})
KNOWN = Traits(FOUND.path, FOUND.labels, "web-1", UUID, is_introduced=True)
NAMELESS = Traits(FOUND.path, {}, None, UUID, is_introduced=True)

BY_PATH, BY_NAME, BY_UUID = Rule(path="/run/vm/web-*"), Rule(name="web-?"), Rule(uuid=UUID.upper())
BY_LABEL = Rule(labels={"customer": "ac*"})
OTHER_PATH, OTHER_NAME, OTHER_LABEL = Rule(path="/srv/*"), Rule(name="db-*"), Rule(labels={"customer": "b*"})
FIRST = "vms.exclude[0] matches this VM"
NONE = "no rule of vms.include matches this VM"


def excluded(why: str) -> Decision:
    return Decision(Outcome.EXCLUDED, why)


def include(*rules: Rule) -> Choice:
    return Choice(include=rules)


def exclude(*rules: Rule) -> Choice:
    return Choice(exclude=rules)


@pytest.mark.parametrize(
    ("choice", "found", "known"),
    [
        (EVERY_VM, OBSERVED, OBSERVED),
        (exclude(BY_PATH), excluded(FIRST), excluded(FIRST)),
        (exclude(BY_LABEL), excluded(FIRST), excluded(FIRST)),
        (exclude(BY_NAME), OPEN, excluded(FIRST)),
        (exclude(BY_UUID), OPEN, excluded(FIRST)),
        (exclude(OTHER_PATH), OBSERVED, OBSERVED),
        (exclude(OTHER_NAME), OPEN, OBSERVED),
        (exclude(OTHER_LABEL), OBSERVED, OBSERVED),
        (exclude(Rule(labels={"tier": "*"})), OBSERVED, OBSERVED),
        (
            exclude(OTHER_PATH, BY_LABEL),
            *[excluded("vms.exclude[1] matches this VM")] * 2,
        ),
        # all parts of a rule must match; one that does not match decides without the others
        (exclude(Rule(path="/run/vm/web-*", name="db-*")), OPEN, OBSERVED),
        (exclude(Rule(path="/srv/*", name="web-1")), OBSERVED, OBSERVED),
        (exclude(Rule(labels={"customer": "acme", "tier": "*"})), OBSERVED, OBSERVED),
        (include(BY_PATH), OBSERVED, OBSERVED),
        (include(OTHER_PATH), excluded(NONE), excluded(NONE)),
        (include(BY_NAME), OPEN, OBSERVED),
        (include(OTHER_NAME), OPEN, excluded(NONE)),
        (include(OTHER_PATH, BY_NAME), OPEN, OBSERVED),
        (include(BY_PATH, OTHER_NAME), OBSERVED, OBSERVED),
        # exclude wins
        (Choice((BY_PATH,), (BY_PATH,)), excluded(FIRST), excluded(FIRST)),
        (Choice((BY_PATH,), (BY_NAME,)), OPEN, excluded(FIRST)),
        (Choice((OTHER_PATH,), (OTHER_NAME,)), excluded(NONE), excluded(NONE)),
        (Choice((BY_NAME,), (BY_PATH,)), excluded(FIRST), excluded(FIRST)),
    ],
)
def test_the_decision_is_made_as_soon_as_the_traits_allow_it(
    choice: Choice, found: Decision, known: Decision
) -> None:
    assert decide(choice, FOUND) == found
    assert decide(choice, KNOWN) == known


def test_a_vm_without_a_name_or_a_label_matches_no_pattern_for_it() -> None:
    assert decide(exclude(Rule(name="*")), NAMELESS) == OBSERVED
    assert decide(include(Rule(labels={"customer": "*"})), NAMELESS) == excluded(NONE)


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/run/*", "/run/a/b.qmp", True),
        ("/RUN/*", "/run/a.qmp", False),
        ("/run/[ab].qmp", "/run/a.qmp", True),
        ("/run/[!ab].qmp", "/run/a.qmp", False),
        ("/run", "/run/a.qmp", False),
        ("qemu:///system#*", "qemu:///system#5f0c", True),
        ("*\n*", "/run/a\nb", True),
    ],
)
def test_a_pattern_covers_the_whole_text(pattern: str, path: str, matches: bool) -> None:
    decided = decide(exclude(Rule(path=pattern)), Traits(path, {}))
    assert decided.is_excluded == matches


# --- the fleet ---


def test_an_excluded_process_gets_no_task_until_another_process_has_its_address() -> None:
    address, other = MonitorPath("/run/vm/a.qmp"), MonitorPath("/run/vm/b.qmp")
    first, second = SocketMark(1, 1, 1), SocketMark(1, 1, 2)
    found = scanned(Fleet(), {address: first}, owners={}).fleet
    left = ended(found, address, failed=False, excluded_mark=first).fleet

    again = scanned(left, {address: first, other: first}, owners={})
    unseen = scanned(again.fleet, {}, owners={}, unknown={address})
    replaced = scanned(unseen.fleet, {address: second}, owners={})
    forgotten = scanned(scanned(left, {}, owners={}).fleet, {address: first}, owners={})

    assert again.effects == (Start(other),)
    assert dict(unseen.fleet.excluded) == {address: first}
    assert Start(address) in replaced.effects
    assert forgotten.effects == (Start(address),)


# --- the poller ---


def story_of(choice: Choice, poller: Poller | None = None) -> Story:
    story = Story(settings=PollSettings(interval_s=1, choice=choice))
    before = None if poller is None else remember(poller)
    story.poller = begin(
        MonitorPath("/run/vm/a.qmp"), VmId("path-id"), Access.HOLD, mark=MARK, before=before, choice=choice
    )
    return story


def counted(story: Story) -> Mapping[str, int]:
    kinds = (OpenLink, CloseLink, EmitSample, Retire, Forget)
    return {kind.__name__: sum(isinstance(each, kind) for each in story.effects) for kind in kinds}


def test_a_vm_that_its_path_excludes_gets_no_link_and_no_event() -> None:
    story = story_of(exclude(Rule(path="/run/vm/*"))).start()

    assert counted(story) == {"OpenLink": 0, "CloseLink": 0, "EmitSample": 0, "Retire": 1, "Forget": 0}
    assert story.states == []
    assert isinstance(story.poller.phase, Retired)


def test_a_vm_that_its_name_excludes_is_asked_once_and_causes_no_event() -> None:
    story = story_of(exclude(Rule(name="web-*"))).start()

    assert counted(story) == {"OpenLink": 1, "CloseLink": 1, "EmitSample": 0, "Retire": 1, "Forget": 0}
    assert [ask.question.value for ask in story.asked] == ["introduce"]
    assert story.states == []


def test_a_vm_that_its_name_includes_is_observed_like_any_other() -> None:
    story = story_of(include(Rule(name="web-*")))
    story.update()
    story.start()
    story.run_s(5)

    assert story.words == [("connecting", "first_attempt"), ("reporting", "advancing")]
    assert [each.sequence for each in story.states] == [1, 2]


def test_a_domain_is_decided_on_without_a_link() -> None:
    choice = exclude(Rule(name="web-*"), Rule(uuid=UUID))
    address = Domain("qemu:///system", UUID)

    poller = begin(address, VmId("path-id"), Access.HOLD, name="db-1", choice=choice)

    assert poller.decision == excluded("vms.exclude[1] matches this VM")


@pytest.mark.parametrize("rule", [Rule(path="/run/vm/*"), Rule(name="web-*")])
def test_a_vm_that_was_observed_before_ends_with_one_event_and_keeps_its_recorded_interval(
    rule: Rule,
) -> None:
    observed = reporting()
    epoch = observed.poller.history.epoch

    story = story_of(exclude(rule), observed.poller).start()

    (event,) = story.states
    assert (event.state, event.reason, event.previous_state) == (State.GONE, "excluded", State.REPORTING)
    assert event.detail == "vms.exclude[0] matches this VM; the agent no longer observes the VM"
    assert event.vm is not None
    assert (event.vm.id, event.vm.id_source, event.vm.uuid) == (UUID, "uuid", UUID)
    assert counted(story)["Forget"] == 0
    assert counted(story)["EmitSample"] == 0

    again = story_of(exclude(rule), story.poller).start()
    assert again.states == [], "it was reported before"

    back = story_of(EVERY_VM, again.poller)
    back.update()
    back.start()
    back.run_s(3)
    assert back.poller.history.epoch == epoch, "the same process and guest"


def test_a_vm_without_a_uuid_that_was_observed_before_ends_under_its_id() -> None:
    story = story_of(exclude(Rule(path="*")), reporting(uuid=None).poller).start()

    (event,) = story.states
    assert event.vm is not None
    assert (event.vm.id, event.vm.id_source, event.vm.uuid) == ("path-id", "path", None)


def test_a_vm_that_does_not_answer_yet_is_reported_for_its_monitor_and_ends_when_it_is_excluded() -> None:
    story = story_of(exclude(Rule(name="web-*")))
    story.mute = True
    story.start()
    assert story.states == []
    story.pass_s(301)  # no greeting
    assert story.words == [("no-greeting", "silent")]

    story.mute = False
    story.pass_s(900)

    assert story.words[1:] == [("gone", "excluded")]
    assert isinstance(story.poller.phase, Retired)


def test_a_vm_that_is_gone_before_the_decision_causes_no_event() -> None:
    story = story_of(include(Rule(name="db-*")))
    story.mute = True
    story.start()
    story.feed(PathMissing())
    story.pass_s(301)

    assert story.states == []
    assert isinstance(story.poller.phase, Retired)


def test_another_process_on_the_same_path_is_decided_on_again() -> None:
    story = reporting(settings=PollSettings(interval_s=1, choice=exclude(Rule(uuid="*2"))))
    story.uuid, story.mark = UUID[:-1] + "2", SocketMark(1, 2, 4)

    story.feed(LinkFailed(LinkFault.HUNG_UP, "hung up"))

    assert story.words[-1] == ("gone", "excluded")
