"""How this machine is reached from beyond its own network: ports of the router, and told addresses."""
