"""How much two token sequences have in common at the start: slices compared in C, in doubling steps."""

from array import array


def common_prefix_tokens(left: "array[int]", right: "array[int]") -> int:
    """Length of the longest common prefix. Arrays of one type code: their buffers are compared in C."""
    limit = min(len(left), len(right))
    same, size = 0, 1
    while same < limit and left[same : same + size] == right[same : same + size]:
        same += size
        size *= 2
    if same >= limit:
        return limit
    # The first difference is among the next `size`; a slice that ends at a limit may be cut short.
    low, high = same, min(same + size, limit)
    while low < high:
        middle = (low + high) // 2
        if left[low : middle + 1] == right[low : middle + 1]:
            low = middle + 1
        else:
            high = middle
    return low
