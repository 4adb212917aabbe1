"""SQL over the store: sessions, views and macros, and the children that run what users ask."""
