"""Room for bodies that need not be held: so much for all, so much for one token, and given back."""

from llmproxy.client.held_bodies import MOST_BYTES, MOST_BYTES_OF_A_TOKEN, HeldBodies

TOKENS = MOST_BYTES // MOST_BYTES_OF_A_TOKEN


def test_a_token_gets_so_much_at_once():
    room = HeldBodies()

    assert room.lend("a", MOST_BYTES_OF_A_TOKEN)
    assert room.lend("a", 1) is None
    assert room.lend("b", MOST_BYTES_OF_A_TOKEN)


def test_all_tokens_together_get_so_much():
    room = HeldBodies()

    assert all(room.lend(str(number), MOST_BYTES_OF_A_TOKEN) for number in range(TOKENS))
    assert room.lend("another", 1) is None


def test_what_is_given_back_may_be_lent_again():
    room = HeldBodies()
    for _ in range(2 * TOKENS):
        give_back = room.lend("a", MOST_BYTES_OF_A_TOKEN)
        assert give_back
        give_back()

    assert room.lend("a", MOST_BYTES_OF_A_TOKEN)
