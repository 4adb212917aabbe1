"""The tables: what is stored, once each. People and playbooks read the views (:mod:`.views`)."""

from __future__ import annotations

SCHEMA_VERSION = 1

TABLES = """
CREATE SCHEMA raw;
CREATE TABLE raw.meta (schema_version INTEGER);
CREATE TABLE raw.run (
    run_id VARCHAR PRIMARY KEY, name VARCHAR, kind VARCHAR, status VARCHAR, command VARCHAR,
    config VARCHAR, git_commit VARCHAR, version VARCHAR, host VARCHAR, pid BIGINT,
    world_size INTEGER, started_ns BIGINT, ended_ns BIGINT, exit_code INTEGER, notes VARCHAR
);
CREATE TABLE raw.process (   -- whoever records; a forked child is a process of its own
    process INTEGER PRIMARY KEY, key VARCHAR, run_id VARCHAR, role VARCHAR, rank INTEGER,
    world_size INTEGER, host VARCHAR, boot_id VARCHAR, pid BIGINT, coordinates VARCHAR
);
CREATE TABLE raw.segment (   -- how far each spool file was read; changes with the rows it gave
    run_id VARCHAR, file VARCHAR, process INTEGER, position BIGINT, finished BOOLEAN,
    dropped BIGINT, PRIMARY KEY (run_id, file)
);
CREATE TABLE raw.anchor (    -- wall clock minus monotonic clock: one for all ranks of a host
    run_id VARCHAR, host VARCHAR, boot_id VARCHAR, offset_ns BIGINT
);
CREATE TABLE raw.damage (run_id VARCHAR, file VARCHAR, position BIGINT, what VARCHAR);
CREATE TABLE raw.span (
    process INTEGER, name VARCHAR, step BIGINT, start_ns BIGINT, end_ns BIGINT
);
CREATE TABLE raw.collective (
    process INTEGER, name VARCHAR, "group" VARCHAR, group_size INTEGER, sequence BIGINT,
    size_bytes BIGINT, step BIGINT, start_ns BIGINT, end_ns BIGINT
);
CREATE TABLE raw.sample (
    process INTEGER, name VARCHAR, step BIGINT, at_ns BIGINT, value DOUBLE
);
CREATE TABLE raw.event (
    process INTEGER, name VARCHAR, subject BIGINT, at_ns BIGINT, value DOUBLE, attributes VARCHAR
);
"""
