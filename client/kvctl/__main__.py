"""`python -m kvctl`."""

from kvctl.app import main

if __name__ == "__main__":
    main()
