"""`kvnode doctor`: looks at everything that a node depends on, before its first start, while it runs, and when it does not.

Each check is a small function that looks at one thing and answers findings. Checks never change what they look at, never
disturb a node that runs, and never raise for what they find.
"""
