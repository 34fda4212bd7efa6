"""`kvctl` and `python -m kvctl`: the command line, or what must be installed for it."""

from __future__ import annotations

import sys

from kvctl.failures import not_installed


def main() -> None:
    """The program. The SDK's wheel brings it along, and not all that it imports: that is the extra `cli`."""
    try:
        from kvctl.app import main as run
    except ModuleNotFoundError as error:
        failure = not_installed(error)
        if failure is None:
            raise
        failure.print(as_json=False)
        sys.exit(int(failure.code))
    run()


if __name__ == "__main__":
    main()
