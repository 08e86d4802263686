"""How many guesses there are, for whom, and for how long the next one has to wait."""

import os
from collections import Counter

import pytest

from control import sign_ins
from control.sign_ins import MAX_DELAY_S, MAX_FAILURES, WINDOW_S, Failures, SharedMemory, SignIns, TooManyFailures


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> SignIns:
    return SignIns(SharedMemory(), clock)


def guess(gate: SignIns, address: str = "192.0.2.1", *, realm: str = "admin", known_as: str | None = None) -> bool:
    """One wrong try; False when it had to wait."""
    try:
        assert gate.attempt(realm, address, lambda: None, known_as=known_as) is None
    except TooManyFailures:
        return False
    return True


def knows(gate: SignIns, address: str = "192.0.2.1", *, realm: str = "admin", known_as: str | None = None) -> bool:
    """One right try; False when it had to wait."""
    try:
        return gate.attempt(realm, address, lambda: "me", known_as=known_as) == "me"
    except TooManyFailures:
        return False


def test_a_caller_has_ten_guesses(gate: SignIns):
    assert [guess(gate) for _ in range(12)] == [True] * MAX_FAILURES + [False] * 2


def test_the_wait_doubles_with_each_failure_up_to_half_a_minute(gate: SignIns, clock: Clock):
    for _ in range(MAX_FAILURES):
        guess(gate)
    waits = []
    for _ in range(8):
        with pytest.raises(TooManyFailures) as refused:
            gate.attempt("admin", "192.0.2.1", lambda: "me")
        waits.append(refused.value.wait_s)
        clock.now += waits[-1] - 0.01
        assert not knows(gate)
        clock.now += 0.01
        assert guess(gate)

    assert waits == [1, 2, 4, 8, 16, 30, 30, MAX_DELAY_S]


def test_the_right_credentials_pass_after_the_wait_and_change_nothing(gate: SignIns, clock: Clock):
    for _ in range(MAX_FAILURES):
        guess(gate)
    clock.now += 1

    assert knows(gate) and knows(gate)
    assert guess(gate) and not guess(gate)
    clock.now += 1
    assert not guess(gate)


def test_ten_guesses_are_ten_in_any_five_minutes(gate: SignIns, clock: Clock):
    for _ in range(MAX_FAILURES - 1):
        guess(gate)
    clock.now += WINDOW_S - 1
    assert guess(gate) and not guess(gate)


def test_old_failures_are_forgiven_and_the_delay_after_five_quiet_minutes(gate: SignIns, clock: Clock):
    for _ in range(MAX_FAILURES):
        guess(gate)
    clock.now += WINDOW_S

    assert [guess(gate) for _ in range(MAX_FAILURES + 1)] == [True] * MAX_FAILURES + [False]


def test_whoever_goes_on_gets_one_guess_in_half_a_minute_and_never_ten_at_once(gate: SignIns, clock: Clock):
    made = 0
    for _ in range(24 * 3600):
        made += guess(gate)
        clock.now += 1

    assert made <= MAX_FAILURES + 6 + 24 * 3600 / MAX_DELAY_S


def test_another_address_has_its_own_guesses(gate: SignIns):
    for _ in range(MAX_FAILURES):
        guess(gate)

    assert knows(gate, "192.0.2.2")


def test_an_ipv6_network_is_one_address(gate: SignIns):
    for number in range(MAX_FAILURES):
        assert guess(gate, f"2001:db8:0:{number}::1")

    assert not knows(gate, "2001:db8:0:ffff::1%eth0") and knows(gate, "2001:db8:1::1")


def test_guesses_from_everywhere_leave_each_address_one(gate: SignIns):
    for number in range(MAX_FAILURES):
        guess(gate, f"192.0.2.{number}")

    assert guess(gate, "198.51.100.1") and not guess(gate, "198.51.100.1")
    assert knows(gate, "198.51.100.2")


def test_who_mistypes_during_an_attack_waits_from_that_on_and_no_longer(gate: SignIns, clock: Clock):
    for number in range(50):
        guess(gate, f"192.0.2.{number}")
    guess(gate, "198.51.100.1")
    for number in range(50, 50 + int(MAX_DELAY_S)):
        assert not knows(gate, "198.51.100.1")
        clock.now += 1
        guess(gate, f"192.0.2.{number}")

    assert knows(gate, "198.51.100.1")


def test_one_who_is_known_has_guesses_apart_from_its_address(gate: SignIns):
    for _ in range(MAX_FAILURES):
        guess(gate)

    assert knows(gate, known_as="mark")
    assert [guess(gate, known_as="mark") for _ in range(11)] == [True] * MAX_FAILURES + [False]


def test_realms_are_apart(gate: SignIns):
    for _ in range(MAX_FAILURES):
        guess(gate, realm="management")

    assert not guess(gate, realm="management") and guess(gate, realm="admin") and guess(gate, realm="metrics")


def test_a_flood_of_addresses_makes_nobody_forgotten_who_is_at_it(gate: SignIns, clock: Clock):
    for _ in range(MAX_FAILURES):
        guess(gate)
    for number in range(3000):
        clock.now += 0.0001
        guess(gate, f"10.0.{number // 256}.{number % 256}")

    assert not guess(gate)


def test_a_flood_of_addresses_gives_none_of_them_a_guess_at_once_again(gate: SignIns):
    """Of five thousand that took turns, 4096 were remembered: none of them at its next turn."""
    addresses = [f"10.{number // 65536}.{number // 256 % 256}.{number % 256}" for number in range(20_000)]
    assert all(guess(gate, address) for address in addresses)

    assert sum(guess(gate, address) for address in addresses) < 10
    assert len(gate._memory.bytes) < 16 * 1024 * 1024


def test_processes_count_together(gate: SignIns):
    """Four at once, none of which knows of the others but by the memory."""
    children = []
    for _ in range(4):
        if not (pid := os.fork()):
            os._exit(sum(guess(gate) for _ in range(50)))
        children.append(pid)
    made = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]

    assert sum(made) == MAX_FAILURES


def test_one_that_died_in_it_keeps_nobody_out(gate: SignIns):
    if not (pid := os.fork()):
        with gate._memory.locked():
            os._exit(0)
    os.waitpid(pid, 0)

    assert knows(gate)


def test_nobody_passes_unseen_while_one_stands_still_in_it(gate: SignIns, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sign_ins, "_LOCK_PAUSE_S", 0.0)
    ready, told = os.pipe()
    hold, end = os.pipe()
    if not (pid := os.fork()):
        with gate._memory.locked():
            os.write(told, b".")
            os.close(end)
            os.read(hold, 1)
            os._exit(0)
    os.read(ready, 1)

    assert not knows(gate)
    os.close(end)
    os.waitpid(pid, 0)
    assert knows(gate)
    for fd in (ready, told, hold):
        os.close(fd)


def test_the_audit_trail_is_told_once_a_minute_and_of_everything(gate: SignIns, clock: Clock):
    guess(gate)
    guess(gate, "192.0.2.2")
    guess(gate, "2001:db8::7", realm="metrics")

    assert gate.take_untold() == [Failures("admin", 2, "192.0.2.2"), Failures("metrics", 1, "2001:db8::7")]
    guess(gate)
    assert gate.take_untold() == []
    clock.now += 60
    (later,) = gate.take_untold()
    gate.put_back(later)
    clock.now += 60
    guess(gate, "192.0.2.3")
    assert gate.take_untold() == [Failures("admin", 2, "192.0.2.3")]


def test_a_flood_of_failures_is_a_line_a_second_in_the_log(
    gate: SignIns, clock: Clock, caplog: pytest.LogCaptureFixture
):
    for number in range(100):
        guess(gate, f"192.0.2.{number}")
        clock.now += 0.05

    assert 5 <= len(caplog.messages) <= 6
    assert caplog.messages[0] == "wrong credentials for admin from 192.0.2.0"
    assert Counter(caplog.messages).most_common(1)[0][1] == 1
