"""`kvctl bench`: a load generator without coordinated omission.

Owns the load, its schedule and its statistics. It reads and writes only keys under its own prefix, through the SDK, as any
application would. Everything but `command` is imported when the command runs.
"""
