"""The inference engine: llama.cpp in one child process per model, driven by the pure scheduler."""
