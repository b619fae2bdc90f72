import pytest

from agent.qmp.balloon import PLACES, choose_balloon

PERIPHERAL, ANONYMOUS = PLACES


def entry(name: str, type_name: str) -> dict[str, object]:
    return {"name": name, "type": type_name}


@pytest.mark.parametrize(
    "type_name",
    [
        "virtio-balloon-pci",
        "virtio-balloon-pci-transitional",
        "virtio-balloon-pci-non-transitional",
        "virtio-balloon-ccw",
        "virtio-balloon-device",
    ],
)
def test_each_kind_of_balloon_is_found_by_its_type(type_name: str) -> None:
    listing = [
        entry("type", "string"),
        entry("net0", "child<virtio-net-pci>"),
        entry("x7", f"child<{type_name}>"),
    ]

    assert choose_balloon(PERIPHERAL, listing) == "/machine/peripheral/x7"


def test_an_anonymous_balloon_is_found_by_its_number() -> None:
    listing = [entry("device[0]", "child<e1000>"), entry("device[1]", "child<virtio-balloon-pci>")]

    assert choose_balloon(ANONYMOUS, listing) == "/machine/peripheral-anon/device[1]"


@pytest.mark.parametrize(
    "type_name",
    [
        "child<virtio-net-pci>",
        "link<virtio-balloon-pci>",
        "child<hv-balloon>",
        "virtio-balloon-pci",
        "child<virtio-balloon-pci-fake>",
        "string",
    ],
)
def test_a_device_of_another_type_is_not_a_balloon(type_name: str) -> None:
    assert choose_balloon(PERIPHERAL, [entry("balloon0", type_name)]) is None


@pytest.mark.parametrize(
    "listing",
    [
        None,
        1,
        "virtio-balloon-pci",
        {"name": "b", "type": "child<virtio-balloon-pci>"},
        [None],
        ["child<virtio-balloon-pci>"],
        [["name", "type"]],
        [{}],
        [{"name": "b"}],
        [{"type": "child<virtio-balloon-pci>"}],
        [{"name": None, "type": "child<virtio-balloon-pci>"}],
        [{"name": "b", "type": 7}],
        [{"name": "", "type": "child<virtio-balloon-pci>"}],
        [{"name": "../../objects/x", "type": "child<virtio-balloon-pci>"}],
        [{"name": "x" * 257, "type": "child<virtio-balloon-pci>"}],
        [{"name": "\x1b[2J", "type": "child<virtio-balloon-pci>"}],
        [{"name": "b\ud800", "type": "child<virtio-balloon-pci>"}],
    ],
)
def test_an_answer_of_another_shape_is_refused(listing: object) -> None:
    with pytest.raises(ValueError, match="qom-list"):
        choose_balloon(PERIPHERAL, listing)
