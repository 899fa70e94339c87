"""What verification catches and what it costs, measured on real engines: `python -m bench.verify`."""
