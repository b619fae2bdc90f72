"""Draw what each tool reported for a guest while its balloon driver was unloaded, as an SVG picture.

The picture has its own background, and colors for light and dark pages. It contains no script or font.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from xml.sax.saxutils import escape

from simulator.demo.measure import Shown
from tests.lab.peers import Said
from tests.lab.peers_figures import free_kib, updates_of

WIDTH, LEFT, RIGHT, TOP, ROW, BOTTOM = 900, 170, 20, 62, 78, 34
_LABELS = 'role="img" aria-labelledby="title desc"'
_PLOT = 46  # height of the curve in a row

_STYLE = """
svg { font-family: system-ui, sans-serif; font-size: 13px }
.page { fill: #ffffff } text { fill: #1f2328 } .minor { fill: #59636e; font-size: 11px }
.frame { fill: none; stroke: #d1d9e0 } .gone { fill: #afb8c1; opacity: .3 }
.truth { fill: none; stroke: #818b98; stroke-width: 1.5 }
.line { fill: none; stroke: #0969da; stroke-width: 2 }
.fresh { fill: #0969da } .old { fill: #ffffff; stroke: #bc4c00; stroke-width: 2 }
.state { fill: #1a7f37; font-size: 11px }
.mark { fill: none; stroke: #1a7f37; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
.page { fill: #0d1117 } text { fill: #f0f6fc } .minor { fill: #9198a1 }
.frame { stroke: #3d444d } .gone { fill: #656c76; opacity: .35 }
.truth { stroke: #9198a1 } .line { stroke: #4493f8 }
.fresh { fill: #4493f8 } .old { fill: #0d1117; stroke: #f0883e } .state { fill: #3fb950 }
.mark { stroke: #3fb950 }
}
"""


@dataclass(frozen=True, slots=True)
class Row:
    """The reports of one tool for the guest, in order of time."""

    said: Sequence[Said]
    states: Sequence[tuple[float, str]] = field(
        default=()
    )  # Unix milliseconds and state, if the tool reports states


@dataclass(frozen=True, slots=True)
class Scene:
    """The history of the guest. All times are Unix milliseconds."""

    shown: Sequence[Shown]  # on the second monitor
    from_ms: float
    until_ms: float
    unloaded_ms: float
    loaded_ms: float
    rows: Mapping[str, Row | None]  # by tool; `None`: the tool is not available


def draw(scene: Scene) -> str:
    """Return the picture as the text of an SVG file."""
    scale = _Scale(scene)
    height = TOP + ROW * (len(scene.rows) + 1) + BOTTOM
    bottom = TOP + ROW * (len(scene.rows) + 1)
    seconds = (scene.until_ms - scene.from_ms) / 1000
    gone_s = (scene.loaded_ms - scene.unloaded_ms) / 1000
    left, right = scale.x(scene.unloaded_ms), scale.x(scene.loaded_ms)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {_LABELS}>',
        f'<title id="title">Reports of a guest without balloon driver for {gone_s:.0f} s</title>',
        f'<desc id="desc">{escape(_description(scene))}</desc>',
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}"/>',
        f'<text x="10" y="20">Free memory of one guest over {seconds:.0f} s</text>',
        *_legend(),
        f'<rect class="gone" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{bottom - TOP}"/>',
    ]
    parts += _frame("second monitor", 0)
    parts.append(_path("truth", scale.steps(_truth(scene), 0)))
    parts.append(f'<text class="minor" x="10" y="{TOP + 50}">{scale.range_mib()}</text>')
    for number, (tool, row) in enumerate(scene.rows.items(), 1):
        parts += _frame(tool, number)
        parts.append(_path("truth", scale.steps(_truth(scene), number)))
        if row is None:
            parts.append(f'<text class="minor" x="10" y="{TOP + number * ROW + 50}">not built</text>')
        else:
            parts += _tool(scene, scale, row, number)
    for second in range(0, int(seconds) + 1, 10 if seconds <= 150 else 30):
        x = scale.x(scene.from_ms + 1000 * second)
        parts.append(
            f'<text class="minor" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{second} s</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Scale:
    """The coordinates of times and amounts of memory in the picture."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        values = [free_kib(each) for each in scene.shown] or [0]
        self._low, self._high = min(values), max(max(values), min(values) + 1)

    def range_mib(self) -> str:
        return f"{self._low / 1024:.0f} to {self._high / 1024:.0f} MiB"

    def x(self, at_ms: float) -> float:
        share = (at_ms - self._scene.from_ms) / (self._scene.until_ms - self._scene.from_ms)
        return LEFT + min(max(share, 0), 1) * (WIDTH - LEFT - RIGHT)

    def y(self, kib: int, row: int) -> float:
        share = (min(max(kib, self._low), self._high) - self._low) / (self._high - self._low)
        return TOP + row * ROW + (ROW - _PLOT) / 2 + _PLOT * (1 - share)

    def steps(self, pieces: Sequence[Sequence[tuple[float, float, int]]], row: int) -> str:
        """Return a path with one line for each piece, which holds each value from its start to its end."""
        words: list[str] = []
        for piece in pieces:
            for number, (start_ms, end_ms, kib) in enumerate(piece):
                y = self.y(kib, row)
                words.append(f"{'L' if number else 'M'}{self.x(start_ms):.1f} {y:.1f}H{self.x(end_ms):.1f}")
        return "".join(words)


def _truth(scene: Scene) -> list[list[tuple[float, float, int]]]:
    ends = [*(each.first_seen_ms for each in scene.shown[1:]), scene.until_ms]
    held = [
        (max(each.first_seen_ms, scene.from_ms), end_ms, free_kib(each))
        for each, end_ms in zip(scene.shown, ends, strict=False)
        if end_ms > scene.from_ms and each.first_seen_ms < scene.until_ms
    ]
    return [held]


def _tool(scene: Scene, scale: _Scale, row: Row, number: int) -> list[str]:
    judged = [
        each
        for each in updates_of(scene.shown, row.said)
        if scene.from_ms <= each.said.at_ms < scene.until_ms
    ]
    silent = _silent(scene, row)
    pieces: list[list[tuple[float, float, int]]] = [[]]
    for each, following in pairwise([*judged, None]):
        if each is None:
            break
        end_ms = following.said.at_ms if following is not None else scene.until_ms
        cut_ms = min([start for start, _, _ in silent if start >= each.said.at_ms] + [end_ms])
        pieces[-1].append((each.said.at_ms, cut_ms, each.said.free_kib))
        if cut_ms < end_ms:
            pieces.append([])
    parts = [_path("line", scale.steps(pieces, number))]
    for each in judged:
        x, y = scale.x(each.said.at_ms), scale.y(each.said.free_kib, number)
        shape = 'class="fresh" r="3"' if each.fresh else 'class="old" r="4"'
        parts.append(f'<circle {shape} cx="{x:.1f}" cy="{y:.1f}"/>')
    for start_ms, end_ms, state in silent:
        left, right = scale.x(start_ms), scale.x(end_ms)
        y = TOP + (number + 1) * ROW - 12
        words = f"{state} for {(end_ms - start_ms) / 1000:.0f} s"
        parts += [
            f'<path class="mark" d="M{left:.1f} {y - 18}v22M{left:.1f} {y - 7}H{right:.1f}"/>',
            f'<text class="state" x="{left + 6:.1f}" y="{y + 6}">{escape(words)}</text>',
        ]
    return parts


def _silent(scene: Scene, row: Row) -> list[tuple[float, float, str]]:
    """Return the start, end and state of each period in which the tool reported that there is no data."""
    ends = [*(at_ms for at_ms, _ in row.states[1:]), scene.until_ms]
    return [
        (max(at_ms, scene.from_ms), min(end_ms, scene.until_ms), state)
        for (at_ms, state), end_ms in zip(row.states, ends, strict=False)
        if state != "reporting" and end_ms > scene.from_ms and at_ms < scene.until_ms
    ]


def _frame(title: str, number: int) -> list[str]:
    y = TOP + number * ROW
    return [
        f'<rect class="frame" x="{LEFT}" y="{y}" width="{WIDTH - LEFT - RIGHT}" height="{ROW}"/>',
        f'<text x="10" y="{y + 34}">{escape(title)}</text>',
    ]


def _path(name: str, way: str) -> str:
    return f'<path class="{name}" d="{way}"/>' if way else ""


def _legend() -> list[str]:
    y = 44
    parts = [
        f'<path class="truth" d="M10 {y - 4}H38"/>',
        f'<path class="line" d="M130 {y - 4}H158"/>',
        f'<circle class="fresh" r="3" cx="274" cy="{y - 4}"/>',
        f'<circle class="old" r="4" cx="376" cy="{y - 4}"/>',
        f'<rect class="gone" x="566" y="{y - 11}" width="28" height="14"/>',
    ]
    words = {
        44: "QEMU shows",
        164: "the tool reports",
        284: "a new update",
        386: "an old update with a new time",
        600: "the guest has no balloon driver",
    }
    return [*parts, *(f'<text class="minor" x="{x}" y="{y}">{text}</text>' for x, text in words.items())]


def _seconds(scene: Scene, at_ms: float) -> str:
    return f"{(at_ms - scene.from_ms) / 1000:.0f} s"


def _description(scene: Scene) -> str:
    """Return a description of the picture, for readers who cannot see it."""
    sentences: list[str] = []
    for tool, row in scene.rows.items():
        if row is None:
            sentences.append(f"{tool}: not built.")
            continue
        gone = [
            each
            for each in updates_of(scene.shown, row.said)
            if scene.unloaded_ms <= each.said.at_ms < scene.loaded_ms
        ]
        old = sum(not each.fresh for each in gone)
        states = ", ".join(
            f"{state} from {_seconds(scene, start_ms)} to {_seconds(scene, end_ms)}"
            for start_ms, end_ms, state in _silent(scene, row)
        )
        sentences.append(
            f"{tool}: {old} old values while the driver is gone{f'; {states}' if states else ''}."
        )
    return " ".join(sentences)
