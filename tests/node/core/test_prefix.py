from array import array

from hypothesis import example, given, settings
from hypothesis import strategies as st

from unhosted.node.core.prefix import common_prefix_tokens

ids = st.lists(st.integers(0, 2), max_size=40)


@given(shared=st.lists(st.integers(0, 2**31 - 1), max_size=700), left=ids, right=ids)
@example(shared=[], left=[], right=[])
@example(shared=list(range(255)), left=[1], right=[2])
@example(shared=list(range(256)), left=[], right=[])
@example(shared=list(range(257)), left=[7], right=[])
@settings(deadline=None, derandomize=True)
def test_common_prefix_is_what_a_loop_over_both_finds(
    shared: list[int], left: list[int], right: list[int]
) -> None:
    one, other = array("i", shared + left), array("i", shared + right)
    expected = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        expected += 1
    assert common_prefix_tokens(one, other) == expected
    assert common_prefix_tokens(other, one) == expected


def test_difference_is_found_at_every_position() -> None:
    one = array("i", range(70))
    for position in range(len(one)):
        other = one[:]
        other[position] = -1
        assert common_prefix_tokens(one, other) == position
        assert common_prefix_tokens(one, one[:position]) == position
