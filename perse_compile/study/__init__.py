"""Many simulated people on one artifact: what personalising gains, costs and saves, beside other ways to do it."""
