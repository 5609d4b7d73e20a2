"""Looks at the machine: what is there, which backends run, which known traps it is in."""
