"""Views of GPUs: what they are, what they measure of themselves, and what befell them.

They are made of what :mod:`collectors.samplers.nvml` records, which says what each metric is.
"""

from __future__ import annotations

from collectors.query.view import View

GPUS = View(
    name="gpus",
    about="one row a GPU of a run's hosts, as it was last told; source: 'nvml' (the driver) or "
    "'fake' (a test's library); *_max: what device and slot can do; nvlinks: how many links it has",
    select="""
    SELECT DISTINCT ON (run_id, host, gpu) run_id, host,
           TRY_CAST(document ->> 'gpu' AS INTEGER) AS gpu, document ->> 'name' AS name,
           document ->> 'uuid' AS uuid, document ->> 'driver' AS driver,
           document ->> 'source' AS source, document ->> 'pci_bus' AS pci_bus,
           TRY_CAST(document ->> 'memory_bytes' AS BIGINT) AS memory_bytes,
           TRY_CAST(document ->> 'sm_clock_max_mhz' AS INTEGER) AS sm_clock_max_mhz,
           TRY_CAST(document ->> 'memory_clock_max_mhz' AS INTEGER) AS memory_clock_max_mhz,
           TRY_CAST(document ->> 'pcie_generation_max' AS INTEGER) AS pcie_generation_max,
           TRY_CAST(document ->> 'pcie_width_max' AS INTEGER) AS pcie_width_max,
           TRY_CAST(document ->> 'nvlinks' AS INTEGER) AS nvlinks,
           TRY_CAST(document ->> 'mig' AS BOOLEAN) AS mig, at_ns
    FROM raw.aligned_event WHERE name = 'gpu.device'
    ORDER BY run_id, host, gpu, at_ns DESC
    """,
)

GPU_SAMPLES = View(
    name="gpu_samples",
    about="what GPUs measured of themselves, each second: util_pct, memory_util_pct, "
    "memory_used_bytes, memory_total_bytes, power_w, power_limit_w, fan_pct, temperature_c, "
    "memory_temperature_c, sm_clock_mhz, memory_clock_mhz, performance_state (0 is the fastest), "
    "throttle_reasons (NVML's bits), power_throttle_pct, thermal_throttle_pct (share of the time), "
    "nvlink_tx_bytes_per_s, nvlink_rx_bytes_per_s, pcie_tx_bytes_per_s, pcie_rx_bytes_per_s; and "
    "each 5 s: ecc_corrected, ecc_uncorrected (since the driver was loaded), ecc_corrected_ever, "
    "ecc_uncorrected_ever, remapped_rows_corrected, remapped_rows_uncorrected, "
    "remapped_rows_pending, remapped_rows_failure (0 or 1), remapped_pages_corrected, "
    "remapped_pages_uncorrected, remapped_pages_pending, remapped_pages_failure, pcie_replays, "
    "pcie_generation, pcie_width, nvlinks_active, nvlink_replay_errors, nvlink_recovery_errors, "
    "nvlink_crc_errors, nvlink_failed_recovery_errors, nvlink_receive_errors, processes; what a "
    "GPU does not support has no rows",
    select="""
    SELECT s.run_id, s.host, s.gpu, s.metric, s.at_ns, s.value, g.source
    FROM (
        SELECT run_id, host, TRY_CAST(split_part(name, '.', 2) AS INTEGER) AS gpu,
               split_part(name, '.', 3) AS metric, at_ns, value
        FROM raw.aligned_sample WHERE starts_with(name, 'gpu.')
    ) AS s LEFT JOIN gpus AS g ON g.run_id = s.run_id AND g.host = s.host AND g.gpu = s.gpu
    WHERE s.gpu IS NOT NULL AND s.metric <> ''
    """,
)

GPU_EVENTS = View(
    name="gpu_events",
    about="what befell GPUs; event: xid (the driver's error number, count of it; reason: what it "
    "means; pids: who had memory on the GPU), throttle (reason; state: began, or ended after "
    "duration_s), ecc (kind: corrected, uncorrected; count that came, and total), remapped_rows "
    "(kind: rows, or pages of older GPUs; corrected, uncorrected, pending a reset, failure), "
    "link_error (bus: nvlink, pcie; link; kind: replay, recovery, crc, failed_recovery, receive, "
    "inactive, active, narrower; count that came, and total), lost (reason), back (duration_s: "
    "how long it was lost), unreadable (kind: what it does not tell; reason); remedy: what to do",
    select="""
    SELECT e.run_id, e.host, e.gpu, e.at_ns, e.event, e.kind, e.state, e.reason, e.xid, e.bus,
           e.link, e.count, e.total, e.duration_s, e.corrected, e.uncorrected, e.pending,
           e.failure, e.pids, e.remedy, g.uuid, g.source
    FROM (
        SELECT run_id, host, TRY_CAST(document ->> 'gpu' AS INTEGER) AS gpu, at_ns,
               name[5:] AS event,
               CASE name WHEN 'gpu.unreadable' THEN document ->> 'what'
                    ELSE document ->> 'kind' END AS kind,
               document ->> 'state' AS state,
               CASE name WHEN 'gpu.xid' THEN document ->> 'what'
                    ELSE document ->> 'reason' END AS reason,
               TRY_CAST(document ->> 'xid' AS INTEGER) AS xid, document ->> 'bus' AS bus,
               TRY_CAST(document ->> 'link' AS INTEGER) AS link,
               TRY_CAST(document ->> 'count' AS BIGINT) AS count,
               TRY_CAST(document ->> 'total' AS BIGINT) AS total,
               TRY_CAST(document ->> 'duration_s' AS DOUBLE) AS duration_s,
               TRY_CAST(document ->> 'corrected' AS BIGINT) AS corrected,
               TRY_CAST(document ->> 'uncorrected' AS BIGINT) AS uncorrected,
               TRY_CAST(document ->> 'pending' AS BOOLEAN) AS pending,
               TRY_CAST(document ->> 'failure' AS BOOLEAN) AS failure,
               TRY_CAST(document -> 'pids' AS BIGINT[]) AS pids, document ->> 'remedy' AS remedy
        FROM raw.aligned_event
        WHERE name IN ('gpu.xid', 'gpu.throttle', 'gpu.ecc', 'gpu.remapped_rows',
                       'gpu.link_error', 'gpu.lost', 'gpu.back', 'gpu.unreadable')
    ) AS e LEFT JOIN gpus AS g ON g.run_id = e.run_id AND g.host = e.host AND g.gpu = e.gpu
    """,
)

GPU_PROCESSES = View(
    name="gpu_processes",
    about="one row a process that had memory on a GPU, as it was last told; state: running, "
    "ended; rank: of this run, NULL for others, and where a container hides the host's pids",
    select="""
    SELECT p.run_id, p.host, p.gpu, p.pid, p.state, p.used_bytes, p.at_ns, r.rank
    FROM (
        SELECT DISTINCT ON (run_id, host, gpu, pid) run_id, host,
               TRY_CAST(document ->> 'gpu' AS INTEGER) AS gpu,
               TRY_CAST(document ->> 'pid' AS BIGINT) AS pid, document ->> 'state' AS state,
               max(TRY_CAST(document ->> 'used_bytes' AS BIGINT)) OVER (
                   PARTITION BY run_id, host, document ->> 'gpu', document ->> 'pid'
               ) AS used_bytes, at_ns
        FROM raw.aligned_event WHERE name = 'gpu.process'
        ORDER BY run_id, host, gpu, pid, at_ns DESC
    ) AS p LEFT JOIN (
        SELECT DISTINCT ON (run_id, host, pid) run_id, host, pid, rank
        FROM raw.process WHERE rank IS NOT NULL ORDER BY run_id, host, pid, opened_ns DESC
    ) AS r ON r.run_id = p.run_id AND r.host = p.host AND r.pid = p.pid
    """,
)
