"""How available a cluster was: computed from what its nodes recorded of each other, and shown.

`merge.availability` is the computation, without I/O; `model` is what it answers; `command` asks the nodes and prints. The
definitions are in docs/availability.md.
"""
