"""ABI and bytecode of the contracts. Empty until channels land."""
