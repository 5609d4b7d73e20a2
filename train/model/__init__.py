"""Networks of IF-MMIN and its baselines: encoders, imagination, losses."""
