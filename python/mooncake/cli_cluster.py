"""Commands that ask the master: status, keys, segments, top, drain."""

import json
import re
import sys
import time

from .cli_admin import Admin
from .cli_text import (FAILED, NOT_SUPPORTED, Failure, Progress, percent_text, print_json, print_pairs, print_table, printable, size_text)

BATCH = 200  # keys a /batch_query_keys, well below the limit of a request line
URL_MAX = 32000


# ---- status ----


def read_status(admin):
    health = admin.json("/health")
    metrics = admin.metrics()
    try:
        ready = admin.json("/ready")
    except Failure as failure:
        if failure.code != NOT_SUPPORTED:
            raise
        ready = {}
    number = lambda name: int(metrics.sample(name))  # noqa: E731
    gets, hits = number("total_get_nums_"), number("valid_get_nums_")
    return {
        "admin": admin.url,
        "role": health.get("role"),
        "state": health.get("ha_state"),
        "serving": bool(health.get("service_ready")),
        "exhausted": ready.get("exhausted", []),
        "epoch": ready.get("epoch"),
        "capacity_bytes": number("master_total_capacity_bytes"),
        "allocated_bytes": number("master_allocated_bytes"),
        "keys": number("master_key_count"),
        "soft_pinned_keys": number("master_soft_pin_key_count"),
        "clients": number("master_active_clients"),
        "segments": number("mcs_segments") if "mcs_segments" in metrics else len(metrics.labels("segment_total_capacity_bytes")),
        "suspect_segments": number("mcs_suspect_segments"),
        "quarantine_bytes": number("mcs_quarantine_bytes"),
        "open_puts": number("mcs_reservations"),
        "lookups": gets,
        "hits": hits,
        "evicted_keys": number("master_evicted_key_count"),
        "evicted_bytes": number("master_evicted_size_bytes"),
        "puts_without_space": number("master_put_start_alloc_failures_total"),
    }


def status(arguments):
    """How the cluster fares: exit code 0 when the master serves."""
    state = read_status(Admin(arguments.admin, arguments.timeout))
    if arguments.json:
        print_json(state)
    else:
        used, capacity = state["allocated_bytes"], state["capacity_bytes"]
        print_pairs([
            ("master", f"{state['admin']}: {state['role']}, {state['state']}"),
            ("memory", f"{size_text(used)} of {size_text(capacity)} used ({percent_text(used, capacity)})"),
            ("segments", f"{state['segments']}" + (f", {state['suspect_segments']} suspect" if state["suspect_segments"] else "")),
            ("clients", state["clients"]),
            ("keys", f"{state['keys']}" + (f", {state['soft_pinned_keys']} soft-pinned" if state["soft_pinned_keys"] else "")),
            ("lookups", f"{state['lookups']}, {percent_text(state['hits'], state['lookups'])} found"),
            ("evicted", f"{state['evicted_keys']} keys, {size_text(state['evicted_bytes'])}"),
            ("quarantine", size_text(state["quarantine_bytes"])),
            ("puts without space", state["puts_without_space"]),
            ("short of", ", ".join(state["exhausted"]) or "nothing"),
        ])
    return 0 if state["serving"] else FAILED


# ---- keys ----


def _matcher(arguments):
    if arguments.regex:
        try:
            pattern = re.compile(arguments.pattern or "")
        except re.error as error:
            raise Failure(f"{arguments.pattern}: not a regular expression: {error}") from None
        return pattern.search
    return (lambda key: key.startswith(arguments.pattern)) if arguments.pattern else (lambda key: True)


def _batches(keys):
    batch, length = [], 0
    for key in keys:
        batch.append(key)
        length += 3 * len(key.encode(errors="surrogateescape")) + 3
        if len(batch) == BATCH or length > URL_MAX:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def _details(admin, keys):
    """(key, size, where it lies); no lease is granted. A key with a comma in it is not asked: the request's grammar has no way to."""
    for batch in _batches(keys):
        askable = [key for key in batch if "," not in key]
        data = admin.json("/batch_query_keys", {"keys": ",".join(askable)})["data"] if askable else {}
        for key in batch:
            values = (data.get(key) or {}).get("values") or []
            yield key, sum(v.get("size_", 0) for v in values[:1]), [v.get("transport_endpoint_", "?") for v in values]


def keys(arguments):
    """Lists keys, as the index is walked: no snapshot."""
    admin = Admin(arguments.admin, arguments.timeout)
    wanted = _matcher(arguments)

    def chosen():
        count = 0
        for key in admin.lines("/get_all_keys"):
            if count == arguments.limit:
                return
            if key and wanted(key):
                count += 1
                yield key

    if arguments.count:
        count = sum(1 for _ in chosen())
        print_json({"count": count}) if arguments.json else print(count)
        return 0
    if arguments.long:
        rows = [{"key": key, "bytes": size, "replicas": places} for key, size, places in _details(admin, chosen())]
        if arguments.json:
            print_json(rows)
        else:
            print_table(["key", ">bytes", "replicas"], [(r["key"], r["bytes"], " ".join(r["replicas"]) or "-") for r in rows])
    elif arguments.json:
        print_json([key.encode(errors="surrogateescape").decode(errors="replace") for key in chosen()])
    else:
        plain = not sys.stdout.isatty()
        for key in chosen():
            sys.stdout.buffer.write((key if plain else printable(key)).encode(errors="surrogateescape") + b"\n")
    return 0


# ---- segments ----


def segments(arguments):
    """Lists the segments and how full they are."""
    admin = Admin(arguments.admin, arguments.timeout)
    if arguments.names:
        for line in admin.lines("/get_all_segments"):
            print(printable(line))
        return 0
    found = admin.json("/get_segments_detail")["segments"]
    if arguments.json:
        print_json(found)
        return 0
    rows = []
    for s in sorted(found, key=lambda s: s.get("segment_name", "")):
        state = s.get("status", "?") + (", suspect" if s.get("suspect") else "")
        used, capacity = s.get("allocator_used_bytes", 0), s.get("allocator_capacity_bytes", 0)
        rows.append((s.get("segment_name", "?"), size_text(s.get("size_bytes", 0)), size_text(used), percent_text(used, capacity),
                     size_text(s.get("quarantine_bytes", 0)), s.get("protocol", "?"), state))
    print_table(["segment", ">size", ">used", ">full", ">quarantine", "protocol", "state"], rows)
    if not rows:
        print("no segment is mounted: start a mooncake_client, or an engine that lends memory", file=sys.stderr)
    return 0


# ---- top ----

RATES = [
    ("puts", ["master_put_end_requests_total", "master_batch_put_end_items_total"]),
    ("lookups", ["total_get_nums_"]),
    ("found", ["valid_get_nums_"]),
    ("exists", ["master_exist_key_requests_total", "master_batch_exist_key_items_total"]),
    ("removed", ["master_remove_requests_total"]),
    ("evicted", ["master_evicted_key_count"]),
    ("no_space", ["master_put_start_alloc_failures_total"]),
]


def _sample(admin):
    metrics = admin.metrics()
    rates = {name: sum(metrics.sample(m) for m in parts) for name, parts in RATES}
    usage = {labels.get("segment", "?"): value for labels, value in metrics.labels("segment_allocated_bytes")}
    sizes = {labels.get("segment", "?"): value for labels, value in metrics.labels("segment_total_capacity_bytes")}
    return time.monotonic(), metrics, rates, usage, sizes


def _report(before, now):
    began, _, old, _, _ = before
    ended, metrics, new, usage, sizes = now
    span = max(ended - began, 1e-9)
    report = {f"{name}_per_s": round(max(new[name] - old[name], 0) / span, 2) for name, _ in RATES}
    lookups = new["lookups"] - old["lookups"]
    report["hit_rate"] = round((new["found"] - old["found"]) / lookups, 4) if lookups > 0 else None
    report["keys"] = int(metrics.sample("master_key_count"))
    report["clients"] = int(metrics.sample("master_active_clients"))
    report["allocated_bytes"] = int(metrics.sample("master_allocated_bytes"))
    report["capacity_bytes"] = int(metrics.sample("master_total_capacity_bytes"))
    report["quarantine_bytes"] = int(metrics.sample("mcs_quarantine_bytes"))
    report["segments"] = [{"segment": s, "allocated_bytes": int(usage.get(s, 0)), "capacity_bytes": int(size)} for s, size in sorted(sizes.items())]
    return report


def _draw(admin, report, interval):
    used, capacity = report["allocated_bytes"], report["capacity_bytes"]
    hit = "-" if report["hit_rate"] is None else f"{100 * report['hit_rate']:.1f} %"
    print(f"mooncake top - {admin.url} - {time.strftime('%H:%M:%S')}, every {interval:g} s, Ctrl-C ends")
    print(f"memory {size_text(used)} of {size_text(capacity)} ({percent_text(used, capacity)}), quarantine {size_text(report['quarantine_bytes'])}, "
          f"{report['keys']} keys, {report['clients']} clients")
    print()
    print_table([">puts/s", ">lookups/s", ">hits", ">exists/s", ">removed/s", ">evicted/s", ">no space/s"],
                [(report["puts_per_s"], report["lookups_per_s"], hit, report["exists_per_s"], report["removed_per_s"], report["evicted_per_s"],
                  report["no_space_per_s"])])
    print()
    rows = []
    for s in sorted(report["segments"], key=lambda s: -s["allocated_bytes"])[:20]:
        share = s["allocated_bytes"] / s["capacity_bytes"] if s["capacity_bytes"] else 0
        rows.append((s["segment"], size_text(s["allocated_bytes"]), size_text(s["capacity_bytes"]), "#" * round(30 * share)))
    print_table(["segment", ">used", ">size", "full"], rows)
    if len(report["segments"]) > 20:
        print(f"… and {len(report['segments']) - 20} more")


def top(arguments):
    """Rates and usage, drawn anew every few seconds; --json prints one line each time."""
    admin = Admin(arguments.admin, arguments.timeout)
    before = _sample(admin)
    count = 0
    while arguments.count == 0 or count < arguments.count:
        time.sleep(arguments.interval)
        now = _sample(admin)
        report = _report(before, now)
        before = now
        count += 1
        if arguments.json:
            print(json.dumps(report, ensure_ascii=False), flush=True)
        else:
            if sys.stdout.isatty():
                sys.stdout.write("\x1b[H\x1b[2J")
            _draw(admin, report, arguments.interval)
            sys.stdout.flush()
    return 0


# ---- drain ----

ENDED = {"SUCCEEDED": 0, "FAILED": FAILED, "CANCELED": FAILED}
PAUSE = 0.5


def _job(admin, job_id):
    return admin.json("/api/v1/drain_jobs/query", {"job_id": job_id})


def _watch(admin, job_id, arguments):
    end = time.monotonic() + arguments.wait if arguments.wait else None
    with Progress("draining", not arguments.json) as bar:
        while True:
            job = _job(admin, job_id)
            if job.get("status_name") in ENDED:
                return job
            done = int(job.get("succeeded_units", 0))
            total = done + sum(int(job.get(name, 0)) for name in ("failed_units", "blocked_units", "active_units"))
            bar.show(done, total, f"{done} objects, {size_text(job.get('migrated_bytes', 0))}, {job.get('status_name', '?')}")
            if end is not None and time.monotonic() >= end:
                raise Failure(f"drain job {job_id} is {job.get('status_name', '?')} after {arguments.wait:g} s; it goes on\n"
                              f"  mooncake drain --watch {job_id}    or    mooncake drain --cancel {job_id}")
            time.sleep(PAUSE)


def _print_job(job, as_json):
    if as_json:
        print_json(job)
        return
    print_pairs([
        ("job", job.get("job_id", "?")),
        ("state", job.get("status_name") or job.get("status", "?")),
        ("segments", " ".join(job.get("segments") or []) or "-"),
        ("moved", f"{job.get('succeeded_units', 0)} objects, {size_text(job.get('migrated_bytes', 0))}"),
        ("not moved", f"{job.get('failed_units', 0)} failed, {job.get('blocked_units', 0)} blocked, {job.get('active_units', 0)} under way"),
        ("message", job.get("message") or job.get("error_message") or "-"),
    ])


def drain(arguments):
    """Moves what lies in segments elsewhere, so that their processes can be stopped."""
    admin = Admin(arguments.admin, arguments.timeout)
    if bool(arguments.segment) + bool(arguments.watch) + bool(arguments.cancel) != 1:
        raise Failure("one of SEGMENT..., --watch JOB and --cancel JOB is wanted", 2)
    if arguments.cancel:
        job = admin.json("/api/v1/drain_jobs/cancel", {"job_id": arguments.cancel}, "POST")
        print_json(job) if arguments.json else print(f"drain job {arguments.cancel}: {job.get('status', 'CANCELED')}")
        return 0
    job_id = arguments.watch
    if not job_id:
        body = {"segments": arguments.segment, "target_segments": arguments.to or [], "max_concurrency": arguments.max_concurrency}
        created = admin.json("/api/v1/drain_jobs", method="POST", body=body)
        job_id = created.get("job_id")
        if not job_id:
            raise Failure(f"the master at {admin.url} made no job: {created}")
        if arguments.no_wait:
            print_json(created) if arguments.json else print(job_id)
            return 0
    try:
        job = _watch(admin, job_id, arguments)
    except KeyboardInterrupt:
        print(f"drain job {job_id} goes on: mooncake drain --watch {job_id}, --cancel {job_id}", file=sys.stderr)
        raise
    _print_job(job, arguments.json)
    return ENDED[job["status_name"]]
