"""The program: pure rules in `core`, trio and I/O in `shell`, the API in `http`, the commands in `cli`."""
