"""Statistics, tables, plots and contact sheets of a run."""
