"""One call of `step`: what every part of it is given, and the effects it has collected."""

from msgspec import Struct, field

from agent.core.events import Effect
from agent.core.poller import PollSettings
from agent.core.reading import Now


class Turn(Struct, frozen=True):
    """The instant, the random draw and the settings of one `step`, and its effects in order.

    All parts of `step` take a poller and the turn, return the next poller, and add their effects here.
    """

    now: Now
    chance: int  # a uniform draw from [0, 2**128)
    settings: PollSettings
    mono_ns: int  # `now` on the monotonic clock, which is what most of them need
    effects: list[Effect] = field(default_factory=list[Effect])

    def do(self, effect: Effect) -> None:
        """Add an effect, to be performed after those before it."""
        self.effects.append(effect)
