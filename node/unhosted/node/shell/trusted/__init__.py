"""Paired peers: the book, pairing, links and dispatch."""
