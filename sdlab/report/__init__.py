"""Reports on cells that were measured: statistics, tables, plots and contact sheets."""
