"""Bugs on purpose: each mutant is the product with one bug that such systems have had, and the simulator must find it.

`mutant` says what a mutant is and puts it in front of Python's import; the lists are in `elections`, `replication`, `disks`,
`eventual`, `requests` and `commits`; `hunt` runs seeds until each is caught. Imports nothing of the product: a mutant must come
first.
"""
