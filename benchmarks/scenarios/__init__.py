"""What is measured: each module is a scenario, a function from a `Bench` to rows of the record."""
