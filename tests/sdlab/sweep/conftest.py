from fake_sweep import file, finished, no_files, no_plots, only_tables, run, stored

__all__ = ["file", "finished", "no_files", "no_plots", "only_tables", "run", "stored"]
