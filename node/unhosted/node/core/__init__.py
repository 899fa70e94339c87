"""Pure rules: no I/O, no clock, no third-party import. Time and entropy come in as arguments."""
