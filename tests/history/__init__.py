"""The history test: what processes saw of a few keys, and whether one order of events explains it."""
