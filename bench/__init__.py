"""Side-by-side measurements: `unhosted serve` and llama.cpp's own server, built from one source.

`make bench`, or `python -m bench [NAME…]` after `make engine`. Every harness prints a Markdown table, and
`--json FILE` keeps the single rounds. What is held equal, and why, is in each module's first lines.
"""
