"""Peers, what one would use instead: faithful implementations, checked before being timed."""
