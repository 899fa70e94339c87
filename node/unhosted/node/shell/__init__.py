"""Trio and I/O: turns the world into events for the core, and the core's effects into the world."""
