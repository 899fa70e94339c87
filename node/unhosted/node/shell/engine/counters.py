"""What a model's process counts, in the order in which every step's message carries it."""

COUNTERS = ("steps", "tokens_in", "tokens_out", "decode_ns", "python_cpu_ns", "process_cpu_ns")
"""tokens_in: fed, prompts and drawn tokens alike. python_cpu_ns: the loop's own thread outside llama.cpp.
process_cpu_ns: all threads of the process, llama.cpp's included, as of the last request that ended."""
