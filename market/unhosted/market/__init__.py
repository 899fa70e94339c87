"""Rules of money, pure: amounts and prices, what keys sign, channels, credit, claims and the spending cap."""
