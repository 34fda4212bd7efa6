"""What must hold, or the node stops.

A broken invariant means that memory no longer says what the disk and the other nodes agreed on. Going on could lose or
invent data, so the driver halts the node; nobody else catches this.
"""


class InvariantViolated(BaseException):
    """Never caught outside the driver, which halts the node. A `BaseException`, so that no `except Exception` hides it."""


def invariant(condition: object, message: str) -> None:
    """Demand `condition`; unlike `assert` it survives `python -O`."""
    if not condition:
        raise InvariantViolated(message)
