"""The search for cells that are best in a metric and in network passes at once: `sdlab search FILE`."""
