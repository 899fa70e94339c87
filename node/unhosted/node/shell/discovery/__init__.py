"""Finding peers on the networks of this machine, and staying connected to those that are paired."""
