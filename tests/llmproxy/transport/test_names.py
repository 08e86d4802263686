"""What is looked up, how often, and what is used meanwhile: a name server by hand, and gevent's loop."""

import _socket
import socket
import threading
from collections.abc import Callable, Iterator

import gevent
import pytest

from llmproxy.transport import names as module
from llmproxy.transport.names import FRESH_S, RETRY_S, SLOW_S, STALE_S, Address, Names

AGAIN = socket.gaierror(_socket.EAI_AGAIN, "Temporary failure in name resolution")
NOWHERE = socket.gaierror(_socket.EAI_NONAME, "Name or service not known")


class NameServer:
    """Answers what a test told it to, or nothing until it is released."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, list[str] | OSError] = {}
        self.is_silent = False
        self._speaks = threading.Event()

    def getaddrinfo(self, host: str, *_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        if _[-1] == _socket.AI_NUMERICHOST:
            raise NOWHERE
        self.asked.append(host)
        if self.is_silent:
            self._speaks.wait(60)
        answer = self.answers[host]
        if isinstance(answer, OSError):
            raise answer
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in answer]

    def speak(self) -> None:
        """Answer those who wait, and whoever asks from here on."""
        self.is_silent = False
        self._speaks.set()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    made = NameServer()
    made.answers["a"] = ["10.0.0.1"]
    monkeypatch.setattr(_socket, "getaddrinfo", made.getaddrinfo)
    monkeypatch.setattr(module.monkey, "is_module_patched", lambda _: True)
    yield made
    made.speak()


@pytest.fixture
def names() -> Names:
    return Names()


class Clock:
    """The module's clock, which a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock)
    return clock


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever can be answered is, however slow the machine."""
    monkeypatch.setattr(module, "PATIENCE_S", 60)


@pytest.fixture
def _no_patience(_patience: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a name server that is silent."""
    monkeypatch.setattr(module, "PATIENCE_S", 0.01)


def turn_until(happened: Callable[[], bool]) -> None:
    """Run the loop until it has; the threads of look-ups are as fast as the machine lets them be."""
    with gevent.Timeout(60):
        while not happened():
            gevent.sleep(0.001)


def hosts(found: list[Address]) -> list[str]:
    return [address.host for address in found]


@pytest.mark.parametrize(("age_s", "times"), [(FRESH_S - 1, 1), (FRESH_S, 2)])
def test_what_was_found_is_used_while_it_is_fresh(
    age_s: float, times: int, names: Names, server: NameServer, clock: Clock
) -> None:
    names.addresses("a")
    clock.now_s += age_s
    names.addresses("a")

    assert len(server.asked) == times


def test_an_answer_replaces_what_is_no_longer_fresh(names: Names, server: NameServer, clock: Clock) -> None:
    names.addresses("a")
    clock.now_s += FRESH_S
    server.answers["a"] = ["10.0.0.2"]

    assert hosts(names.addresses("a")) == ["10.0.0.2"]


def fails(server: NameServer) -> None:
    server.answers["a"] = AGAIN


def falls_silent(server: NameServer) -> None:
    server.is_silent = True


@pytest.mark.usefixtures("_no_patience")
@pytest.mark.parametrize("outage", [fails, falls_silent])
def test_what_was_found_is_used_on_in_an_outage_of_the_name_server(
    outage: Callable[[NameServer], None], names: Names, server: NameServer, clock: Clock
) -> None:
    names.addresses("a")
    outage(server)
    clock.now_s += STALE_S - 1

    assert hosts(names.addresses("a")) == ["10.0.0.1"]


def test_what_is_too_old_is_not_used_at_all(names: Names, server: NameServer, clock: Clock) -> None:
    names.addresses("a")
    fails(server)
    clock.now_s += STALE_S

    with pytest.raises(socket.gaierror, match="Temporary"):
        names.addresses("a")


def test_in_an_outage_one_call_in_a_while_waits_for_an_answer(names: Names, server: NameServer, clock: Clock) -> None:
    names.addresses("a")
    fails(server)
    clock.now_s += FRESH_S
    for _ in range(5):
        names.addresses("a")
    assert len(server.asked) == 2

    clock.now_s += RETRY_S
    names.addresses("a")
    assert len(server.asked) == 3


def test_a_name_that_is_there_no_longer_is_not_used_on(names: Names, server: NameServer, clock: Clock) -> None:
    names.addresses("a")
    server.answers["a"] = NOWHERE
    clock.now_s += FRESH_S

    for _ in range(2):
        with pytest.raises(socket.gaierror, match="not known"):
            names.addresses("a")


def test_a_name_that_took_no_connection_is_looked_up_anew_though_it_is_fresh(
    names: Names, server: NameServer, clock: Clock
) -> None:
    names.addresses("a")
    server.answers["a"] = ["10.0.0.2"]
    names.doubt("a")
    names.doubt("unknown")

    assert hosts(names.addresses("a")) == ["10.0.0.2"]


@pytest.mark.usefixtures("_no_patience")
def test_an_answer_that_comes_late_is_used_by_the_next(names: Names, server: NameServer, clock: Clock) -> None:
    names.addresses("a")
    server.is_silent = True
    server.answers["a"] = ["10.0.0.2"]
    clock.now_s += FRESH_S
    assert hosts(names.addresses("a")) == ["10.0.0.1"]
    server.speak()

    turn_until(lambda: hosts(names.addresses("a")) == ["10.0.0.2"])
    assert len(server.asked) == 2


def test_all_who_wait_for_a_name_share_two_look_ups_and_the_first_answer(
    names: Names, server: NameServer, clock: Clock
) -> None:
    server.is_silent = True
    early = [gevent.spawn(names.addresses, "a") for _ in range(10)]
    turn_until(lambda: server.asked == ["a"])

    clock.now_s += SLOW_S
    late = [gevent.spawn(names.addresses, "a") for _ in range(10)]
    turn_until(lambda: server.asked == ["a", "a"])
    clock.now_s += SLOW_S
    late += [gevent.spawn(names.addresses, "a") for _ in range(10)]
    gevent.sleep(0.01)
    assert names._names["a"].asking == 2

    server.speak()
    gevent.joinall(early + late, timeout=60)
    assert {tuple(hosts(waiting.value)) for waiting in early + late} == {("10.0.0.1",)}


def test_a_failure_is_told_to_all_who_wait_each_with_its_own_error(names: Names, server: NameServer) -> None:
    server.is_silent = True
    server.answers["a"] = NOWHERE
    waiting = [gevent.spawn(names.addresses, "a") for _ in range(3)]
    turn_until(lambda: server.asked == ["a"])
    server.speak()
    gevent.joinall(waiting, timeout=60)

    assert [str(one.exception) for one in waiting] == [str(NOWHERE)] * 3
    assert len({id(one.exception) for one in waiting}) == 3


def test_names_that_were_slow_do_not_keep_others_from_being_looked_up(
    names: Names, server: NameServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "THREADS", 2)
    monkeypatch.setattr(module, "SLOW_THREADS", 2)
    dead = [f"dead-{number}" for number in range(3)]
    server.answers |= dict.fromkeys(dead, AGAIN)
    server.is_silent = True
    waiting = [gevent.spawn(names.addresses, name) for name in dead]
    turn_until(lambda: len(server.asked) == 2)
    clock.now_s += SLOW_S
    server.speak()
    gevent.joinall(waiting, timeout=60)
    server.is_silent = True
    server._speaks.clear()
    waiting = [gevent.spawn(names.addresses, name) for name in dead]
    turn_until(lambda: len(server.asked) == 5)
    server.is_silent = False

    assert hosts(names.addresses("a")) == ["10.0.0.1"]
    assert not any(one.ready() for one in waiting)
    server.speak()
    gevent.joinall(waiting, timeout=60)


def test_a_name_with_several_addresses_is_begun_with_another_one_each_time(names: Names, server: NameServer) -> None:
    server.answers["a"] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]

    assert sorted(hosts(names.addresses("a"))[0] for _ in range(3)) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


def test_names_are_kept_in_a_bounded_number(
    names: Names, server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_NAMES", 2)
    for name in "abc":
        server.answers[name] = ["10.0.0.1"]
        names.addresses(name)
    names.addresses("c")
    names.addresses("a")

    assert server.asked == ["a", "b", "c", "a"]


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", Address(socket.AF_INET, "127.0.0.1")),
        ("::1", Address(socket.AF_INET6, "::1", (0, 0))),
    ],
)
def test_a_literal_address_needs_no_thread(
    host: str, address: Address, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.monkey, "is_module_patched", lambda _: True)
    monkeypatch.setattr(Names, "_ask", None)

    assert names.addresses(host) == [address]
