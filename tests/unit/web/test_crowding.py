import pytest

from agent.web.crowding import Connected, Stage, client_of, one_to_close, stage_of

R, U, N, A = Stage


@pytest.mark.parametrize(
    ("held", "closed"),
    [
        pytest.param("aR aR aR", 0, id="the oldest"),
        pytest.param("aA aU aR aR", 2, id="who has not asked"),
        pytest.param("aA aU aA aU", 1, id="who does not read"),
        pytest.param("aA aN aU aN", 2, id="who does not read, before one that may still ask"),
        pytest.param("aA aN aA aN", 1, id="the oldest that may still ask"),
        pytest.param("aA aA aA", 2, id="the newest that is answered"),
        pytest.param("bR aA aA bR aA", 4, id="of the address with the most"),
        pytest.param("bR aA bA aR", 0, id="of any address where all have as many"),
    ],
)
def test_which_connection_is_closed(held: str, closed: int) -> None:
    stages = {"R": R, "U": U, "N": N, "A": A}
    connected = [Connected(each[0], stages[each[1]]) for each in held.split()]

    assert one_to_close(connected) == closed


@pytest.mark.parametrize(
    ("asked", "open_s", "unread_s", "stage"),
    [
        (False, 0.9, 0.0, N),
        (False, 1.1, 0.0, R),
        (True, 5.0, 0.0, A),
        (True, 5.0, 0.09, A),
        (True, 5.0, 0.11, U),
    ],
)
def test_the_stage_of_a_connection(asked: bool, open_s: float, unread_s: float, stage: Stage) -> None:
    assert stage_of(asked=asked, open_s=open_s, unread_s=unread_s) is stage


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("::1", "::"),
        ("", ""),
    ],
)
def test_the_addresses_of_one_client_count_as_one(address: str, client: str) -> None:
    assert client_of(address) == client
