"""8-bit graphs: which operators bear it, how weights are rounded."""
