# `./dev bench scale`: sourced by ./dev, whose functions it uses.
# shellcheck shell=bash disable=SC2154

# scale [PROCESSES…]: how many jobs a second 1, 2, 4, 8 and 16 worker processes get done over one
# Postgres on this machine: jobs that do nothing, and jobs that wait 20 ms for something else.
# Prints medians of three runs each, as a table.
scale() {
    local counts=("$@") relevo=$root/target/release/relevo load count rate rates psql
    ((${#counts[@]})) || counts=(1 2 4 8 16)
    need cargo cc postgres
    attended cargo build --release -p relevo --bin relevo
    psql=$(pg_bin)/psql
    [[ -x $psql ]] || psql=psql
    start_postgres shared_buffers=512MB max_wal_size=4GB checkpoint_timeout=15min max_connections=400
    printf '| worker processes | no-op jobs/s | jobs of 20 ms/s | of the slots busy |\n|---|---|---|---|\n'
    for count in "${counts[@]}"; do
        printf '| %s ' "$count"
        for load in 0 20; do
            rates=()
            for _ in 1 2 3; do
                rates+=("$(scale_run "$count" "$load")")
            done
            rate=$(printf '%s\n' "${rates[@]}" | sort -n | sed -n 2p)
            printf '| %s ' "$rate"
        done
        # Jobs of 20 ms in 16 slots are at most 800 a second and process.
        printf '| %s %% |\n' "$((rate * 100 / (count * 800)))"
    done
}

# scale_run PROCESSES MILLISECONDS: jobs a second, from the first claim to the last finish.
scale_run() {
    local count=$1 sleep_ms=$2 jobs=60000 database=scale_$RANDOM$RANDOM folder pids=() index tick
    ((sleep_ms == 0)) || jobs=$((count * 800 * 4))
    ((jobs <= 60000)) || jobs=60000
    folder=$(mktemp -d "${TMPDIR:-/tmp}/relevo-scale.XXXXXX")
    ask() { "$psql" -X -q -A -t -v ON_ERROR_STOP=1 -d "${postgres_url%/*}/$1" -c "$2"; }
    ask postgres "CREATE DATABASE $database"
    printf 'data_dir = "%s"\n[database]\nurl = "%s"\nmax_connections = 8\n[worker]\nconcurrency = 16\n[telemetry]\nlog_level = "warn"\n' \
        "$folder" "${postgres_url%/*}/$database" >"$folder/relevo.toml"
    "$relevo" --config "$folder/relevo.toml" migrate >/dev/null
    "$relevo" --config "$folder/relevo.toml" queue pause default >/dev/null
    ask "$database" "SELECT count(relevo.enqueue('Noop', jsonb_build_object('sleep_ms', $sleep_ms)))
        FROM generate_series(1, $jobs)" >/dev/null
    ask "$database" "VACUUM ANALYZE relevo.job"
    for ((index = 0; index < count; index++)); do
        "$relevo" --config "$folder/relevo.toml" worker --listen 127.0.0.1:0 \
            >"$folder/$index.log" 2>&1 </dev/null &
        pids+=("$!")
    done
    # All are there before the first begins.
    for ((tick = 0; tick < 600; tick++)); do
        (($(ask "$database" 'SELECT count(*) FROM relevo.session') < count)) || break
        sleep 0.1
    done
    "$relevo" --config "$folder/relevo.toml" queue resume default >/dev/null
    for ((tick = 0; tick < 1200; tick++)); do
        [[ $(ask "$database" "SELECT EXISTS (SELECT FROM relevo.job)") == t ]] || break
        sleep 0.25
    done
    ask "$database" "SELECT round(count(*) / extract(epoch FROM max(finished_at) - min(claimed_at)))
        FROM relevo.job_history"
    for index in "${pids[@]}"; do kill -TERM "$index" 2>/dev/null || true; done
    wait "${pids[@]}" || true
    ask postgres "DROP DATABASE $database WITH (FORCE)"
    rm -rf "$folder"
}
