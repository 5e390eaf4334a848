"""The commands `dreammpc` and `lightning`."""
