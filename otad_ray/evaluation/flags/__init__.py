"""Flags: the reasons for which numbers of a sweep cannot be trusted."""
