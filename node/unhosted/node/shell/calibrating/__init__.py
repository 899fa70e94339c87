"""Measures how far honest engines stray from each other on one model, and keeps the signed result."""
