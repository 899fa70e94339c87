"""Evidence files: written, read, and run again on this machine."""
