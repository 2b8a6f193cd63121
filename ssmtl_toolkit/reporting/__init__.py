"""Reports: one HTML file for each run, made of what its folder records."""
