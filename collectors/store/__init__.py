"""The store: everything recorded, in DuckDB, behind views. Rebuildable from the spools."""

from collectors.store.database import Store
from collectors.store.sandbox import Table

__all__ = ["Store", "Table"]
