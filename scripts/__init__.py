"""The command line of telic and what surrounds training: runs, metrics, plots, statistics."""
