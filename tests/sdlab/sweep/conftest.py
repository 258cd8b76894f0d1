from fake_sweep import file, run

__all__ = ["file", "run"]
