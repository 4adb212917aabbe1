"""A look at a job that runs already and knows nothing of opsuite."""
