"""Tools that run while the model answers: what they do, and how their answers become part of the conversation.

A tool is a function from the arguments of a call to text, bounded in work and length; a failure is text, too, which
the model reads. Calculator and lookup are pure functions. A Python snippet runs in a process of its own, which sees no
network, no file but Python's own, and none of the worker (`snippet.py`).
"""
