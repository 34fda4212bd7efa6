"""kvctl: the command line of kvnode, its local playground and its demo.

Owns nothing that runs inside a server: it speaks the public API, and starts daemons as processes of their own.
"""
