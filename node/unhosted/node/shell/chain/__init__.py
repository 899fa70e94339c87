"""The chain behind a port: `core.chain.Chain` over JSON-RPC endpoints that lie, lag, limit and die.

`chains` is the table of chains; `calls` turns the market's words into the contract's; `pool` asks endpoints
and believes what they agree on; `sending` gets a transaction into a block exactly once; `following` reads
events; `adapter` puts them together. Nothing here is imported with `--offline`.
"""
