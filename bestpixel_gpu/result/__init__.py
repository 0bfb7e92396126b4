"""Results: the composite, its report, and its ways out to xarray, files and pictures."""
