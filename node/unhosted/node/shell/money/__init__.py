"""What a node writes down about money before it acts: the buyer's ledger, the seller's book."""
