"""The store: everything recorded, as files that DuckDB reads, behind views."""
