"""Recorder, spool, store and views: everything that happens is recorded here, once, in one way."""
