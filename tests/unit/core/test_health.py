from agent.core import health
from agent.core.health import Component, Health, Standing


def test_a_part_keeps_its_since_while_its_health_stays_whatever_the_reason() -> None:
    at_first = health.follow({}, {"kafka": Standing(Health.DEGRADED, "refused")}, 1)

    later = health.follow(at_first, {"kafka": Standing(Health.DEGRADED, "timed out")}, 2)
    better = health.follow(later, {"kafka": Standing(Health.OK, "delivers")}, 3)

    assert later == {"kafka": Component(Health.DEGRADED, "timed out", 1)}
    assert better == {"kafka": Component(Health.OK, "delivers", 3)}


def test_the_whole_is_as_its_worst_part() -> None:
    def whole(*parts: Health) -> Health:
        return health.overall({str(n): Component(each, "", 0) for n, each in enumerate(parts)})

    assert whole() is Health.STARTING
    assert whole(Health.OK, Health.OK) is Health.OK
    assert whole(Health.OK, Health.STARTING) is Health.STARTING
    assert whole(Health.DEGRADED, Health.STARTING) is Health.DEGRADED
    assert whole(Health.STOPPING, Health.DEGRADED) is Health.STOPPING
