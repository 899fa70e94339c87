"""Models on this machine: reading, storing, fetching and sizing GGUF files."""
