"""Views of elastic fleets: which instances computed what together, and who came and went."""

from __future__ import annotations

from collectors.query.view import View

GROUP_ITERATIONS = View(
    name="group_iterations",
    about="one row an iteration of a group of a fleet's instances (dop: how many); prompts, "
    "prefill_tokens, decodes: what it computed; predicted_s: what its manager expected; "
    "since_decided_s: with telling and hearing; *_bytes: from instance to instance (keys and "
    "values round the ring, queries with partial results, copies); torn: one of it was lost",
    select="""
    SELECT run_id, host, subject AS iteration, at_ns,
           TRY_CAST(document -> 'instances' AS INTEGER[]) AS instances,
           len(TRY_CAST(document -> 'instances' AS INTEGER[])) AS dop,
           TRY_CAST(document ->> 'prompts' AS BIGINT) AS prompts,
           TRY_CAST(document ->> 'prefill_tokens' AS BIGINT) AS prefill_tokens,
           TRY_CAST(document ->> 'decodes' AS BIGINT) AS decodes,
           value AS duration_s,
           TRY_CAST(document ->> 'predicted_s' AS DOUBLE) AS predicted_s,
           TRY_CAST(document ->> 'since_decided_s' AS DOUBLE) AS since_decided_s,
           TRY_CAST(document ->> '$.sent_bytes[0]' AS BIGINT) AS ring_bytes,
           TRY_CAST(document ->> '$.sent_bytes[1]' AS BIGINT) AS query_bytes,
           TRY_CAST(document ->> '$.sent_bytes[2]' AS BIGINT) AS copy_bytes,
           TRY_CAST(document ->> 'moved_tokens' AS BIGINT) AS moved_tokens,
           TRY_CAST(document ->> 'torn' AS BOOLEAN) AS torn
    FROM raw.aligned_event WHERE name = 'group.iteration'
    """,
)

INSTANCES = View(
    name="instances",
    about="what each instance of a fleet held and did, one row a group's iteration it was in; "
    "used_slots: tokens whose keys and values it held afterwards",
    select="""
    WITH taken AS (
        SELECT run_id, host, subject AS iteration, at_ns,
               unnest(TRY_CAST(document -> 'instances' AS INTEGER[])) AS instance,
               len(TRY_CAST(document -> 'instances' AS INTEGER[])) AS dop,
               value AS duration_s, document -> 'used' AS used
        FROM raw.aligned_event WHERE name = 'group.iteration'
    )
    SELECT run_id, host, instance, iteration, at_ns, dop, duration_s,
           TRY_CAST(used ->> instance::VARCHAR AS BIGINT) AS used_slots
    FROM taken
    """,
)

SCALING = View(
    name="scaling",
    about="one row whenever other instances than before compute a request (from_dop, to_dop), or "
    "an instance came (gained) or went (lost)",
    select="""
    SELECT run_id, host, at_ns,
           CASE name WHEN 'request.scaled' THEN 'scaled'
                WHEN 'instance.gained' THEN 'gained' ELSE 'lost' END AS kind,
           CASE WHEN name = 'request.scaled' THEN nullif(subject, -1) END AS request,
           CASE WHEN name <> 'request.scaled' THEN nullif(subject, -1) END AS instance,
           TRY_CAST(document -> 'from' AS INTEGER[]) AS from_instances,
           TRY_CAST(document -> 'to' AS INTEGER[]) AS to_instances,
           len(TRY_CAST(document -> 'from' AS INTEGER[])) AS from_dop,
           len(TRY_CAST(document -> 'to' AS INTEGER[])) AS to_dop
    FROM raw.aligned_event WHERE name IN ('request.scaled', 'instance.gained', 'instance.lost')
    """,
)
