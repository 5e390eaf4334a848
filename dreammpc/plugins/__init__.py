"""Things by name (planners, algorithms, task families) and their checked settings."""
