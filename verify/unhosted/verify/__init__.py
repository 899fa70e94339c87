"""Rules of evidence: the sampler that buyer and seller share, and what can be shown from tokens alone."""
