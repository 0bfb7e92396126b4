"""Decisions without I/O: which scenes, which winners, which tiles, how much memory."""
