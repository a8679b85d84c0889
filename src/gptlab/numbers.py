"""Numbers that look random and are the same everywhere."""

import numpy as np
import numpy.typing as npt

UInt64Array = npt.NDArray[np.uint64]


def mix(values: UInt64Array) -> UInt64Array:
    """A one-to-one function of 64 bits that looks random: the finalizer of SplitMix64.

    Guy Steele, Doug Lea and Christine Flood, "Fast Splittable Pseudorandom Number Generators"
    (2014), https://doi.org/10.1145/2714064.2660195.
    """
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values
