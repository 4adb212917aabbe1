"""Views of samplers: what they measured of hosts, and how they stand.

What each metric is, the samplers in :mod:`collectors.samplers` say.
"""

from __future__ import annotations

from collectors.query.view import View

HOST_SAMPLES = View(
    name="host_samples",
    about="what was measured around a run, by its host's collector. Family host: cpu_util_pct, "
    "cpu_user_pct, cpu_system_pct, cpu_iowait_pct, cpu_steal_pct, busiest_core_pct, cores, "
    "load_1m, tasks_running, tasks_blocked, run_queue_wait_s_per_s, memory_total_bytes, "
    "memory_available_bytes, swap_used_bytes, dirty_bytes, page_faults_per_s, major_faults_per_s, "
    "swap_in_bytes_per_s, swap_out_bytes_per_s, home_free_bytes, tcp_retransmits_per_s; psi "
    "(instance: cpu, memory, io, irq): some_pct, full_pct (share of the time in which some task "
    "waited, or all did), some_avg10_pct, full_avg10_pct; disk (a device): read_bytes_per_s, "
    "write_bytes_per_s, iops, util_pct, wait_s; net (an interface): rx_bytes_per_s, "
    "tx_bytes_per_s, errors_per_s, drops_per_s; cgroup (its path): cpu_limit, throttled_pct, "
    "throttled_s_per_s, memory_bytes, memory_limit_bytes; ib (device/port): rx_bytes_per_s, "
    "tx_bytes_per_s, rate_gbps, active, xmit_wait_per_s, cnp_sent_per_s, cnp_handled_per_s, "
    "ecn_marked_per_s; gpu: see gpu_samples; what a host does not have has no rows",
    select="""
    SELECT run_id, host, name[:first - 1] AS family,
           CASE WHEN last > first THEN name[first + 1:last - 1] END AS instance,
           name[last + 1:] AS metric, at_ns, value
    FROM (
        SELECT *, strpos(name, '.') AS first, len(name) - strpos(reverse(name), '.') + 1 AS last
        FROM raw.aligned_sample WHERE role = 'collector' AND contains(name, '.')
    )
    """,
)

SAMPLERS = View(
    name="samplers",
    about="one row a sampler of a run's host, and one for each part of it that does not stand as "
    "the rest does; state: present, absent or failing, as it was last told; reason: why it is not "
    "present; failures: readings that failed until then",
    select="""
    SELECT DISTINCT ON (run_id, host, sampler, part) run_id, host,
           document ->> 'sampler' AS sampler, document ->> 'part' AS part,
           CASE name WHEN 'sampler.failed' THEN 'failing' ELSE name[9:] END AS state,
           document ->> 'reason' AS reason,
           coalesce(TRY_CAST(document ->> 'failures' AS BIGINT), 0) AS failures, at_ns
    FROM raw.aligned_event
    WHERE name IN ('sampler.present', 'sampler.absent', 'sampler.failed')
    ORDER BY run_id, host, sampler, part, at_ns DESC
    """,
)
