"""The bracket: certified robust accuracy, worst case over all attacks, and what follows from both."""
