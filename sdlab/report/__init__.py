"""Reports on measured cells: statistics, tables, plots and contact sheets."""
