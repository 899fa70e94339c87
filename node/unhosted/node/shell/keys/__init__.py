"""Keys that sign money: the only folder that sees a secret. Others get a `Signer`, which shows none."""
