"""Several runs that segment together: what is held of each."""
from typing import Any, NamedTuple

APART = "apart"     # how far runs and views are apart, beside the mean of their probabilities


class Member(NamedTuple):
    """One run of several."""

    method: Any
    recipe: Any
    windows: dict       # of `segment`
