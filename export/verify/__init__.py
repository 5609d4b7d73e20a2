"""Proof that graphs answer as their network does."""
