"""GPU day: everything of this version that a machine with an NVIDIA GPU can tell."""
