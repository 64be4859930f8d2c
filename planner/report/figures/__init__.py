"""One picture of a plan a file; `planner.report.plots` puts them together and writes them."""
