"""Rules of money. Empty until channels land: nothing in the local ring costs anything."""
