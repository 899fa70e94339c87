"""What a user does with money by hand: deposits that wait for a signature, closing, looking back.

It knows the chain and the keys by their protocols in `core.chain` alone.
"""
