"""The actions of `ifmmin-train`, a module each: `add` declares its options, `run` does it."""
