"""Triton: a bundle as a repository of models for NVIDIA's server."""
