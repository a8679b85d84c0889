import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gptlab.numbers import mix


def slow_mix(value: int) -> int:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> shift)) * factor % 2**64
    return value ^ (value >> 31)


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_mixing_equals_what_integers_of_any_size_give(numbers):
    values = np.array(numbers, np.uint64)
    assert mix(values).tolist() == [slow_mix(number) for number in numbers]
    assert values.tolist() == numbers
