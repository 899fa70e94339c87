"""Answers that were paid for, read again on this machine when it has nothing else to do."""
