# `./dev demo`: sourced by ./dev, whose functions it uses.
# shellcheck shell=bash disable=SC2154

# The demo's data folder must be reachable for the user the embedded server runs as.
demo_folder() {
    local folder=${RELEVO_DEMO_DIR:-$root/.relevo/demo}
    mkdir -p "$folder"
    folder=$(cd "$folder" && pwd)
    if [[ -n $server_user ]] && ! "${as_server_user[@]}" test -x "$folder"; then
        [[ -z ${RELEVO_DEMO_DIR:-} ]] ||
            die "the user $server_user cannot reach $folder, and the embedded Postgres runs as that user"
        rmdir -p "$folder" 2>/dev/null || true
        folder=/var/tmp/relevo-demo-$(printf '%s' "$root" | cksum | cut -d ' ' -f 1)
        mkdir -p "$folder"
        say "the user $server_user cannot reach $root, so the demo's data are in $folder"
    fi
    printf '%s\n' "$folder"
}

# start NAME COMMAND…: in the background, with a log file; sets started.
start() {
    local name=$1
    shift
    # Emptied here and now: what an earlier demo's process said must not be taken for this one's.
    : >"$logs/$name.log"
    # Without the lock's descriptor: what outlives a killed demo must not go on holding it.
    "$@" >"$logs/$name.log" 2>&1 </dev/null {lock}>&- &
    started=$!
    children+=("$started")
}

# wait_for_line NAME TEXT: until the log of the process just started holds TEXT; sets line.
wait_for_line() {
    local tick
    for ((tick = 0; tick < 1200; tick++)); do
        line=$(grep -m 1 -F -- "$2" "$logs/$1.log") && return 0
        is_running "$started" || break
        sleep 0.1
    done
    cat "$logs/$1.log" >&2
    die "$1 did not say \"$2\""
}

demo() {
    local stay=1 size='' folder logs dump port source=sicar database=shop gateway api key
    local lock started line state run
    local pg_programs=${RELEVO_PG_BIN:-}
    [[ -t 0 && -t 1 ]] || stay=
    while (($#)); do
        case $1 in
        --exit) stay= ;;
        --size) size=${2:?--size takes megabytes}; shift ;;
        *) usage >&2; die "unknown argument: $1" ;;
        esac
        shift
    done
    [[ -z $size || $size =~ ^[0-9]+$ ]] || die "--size takes a whole number of megabytes"

    build
    need postgres
    folder=$(demo_folder)
    logs=$folder/log
    mkdir -p "$logs"
    exec {lock}>"$folder/lock"
    flock -n "$lock" || die "another demo is running in $folder"

    dump=$root/tests/data/shop.sql.gz
    if [[ -n $size ]]; then
        need mariadb
        # Its own source and target: a smaller dump would be refused as a shrunken one.
        source=sicar_$size database=shop_$size dump=$folder/shop-$size.sql.gz
        [[ -s $dump ]] || attended "$target/relevo-shop" --size-mb "$size" --out "$dump"
    fi

    start gateway "$target/relevo-gateway-simulator" --listen 127.0.0.1:0 --dump "$dump" \
        --time-scale 0.02
    wait_for_line gateway "listening on "
    gateway=${line#listening on }

    port=8080
    ! port_is_taken "$port" || port=$(free_port)
    api=http://127.0.0.1:$port
    cat >"$folder/relevo.toml" <<TOML
data_dir = "$folder/data"

[api]
listen = "127.0.0.1:$port"
public_url = "$api"

[chunk_store]
# Small, so that even a small dump gives several workers something to do.
chunk_size_bytes = $(( ${size:-1} * 65536 ))

[backup.$source]
gateway_url = "$gateway"
api_key = "clave-de-prueba-0123456789"
allow_http_fallback = true
target_url = "embedded:$database"
schedule_enabled = false
TOML
    # Nothing of the caller's own configuration may reach the demo, least of all a database.
    unset "${!RELEVO_@}" "${!TUNNEL_@}" DATABASE_URL SYNC_INTERVAL_HOURS BACKUP_RETENTION_DAYS \
        NOTIFICATION_EMAIL LOG_LEVEL
    export RELEVO_CONFIG=$folder/relevo.toml
    [[ -z $pg_programs ]] || export RELEVO_PG_BIN=$pg_programs

    say
    say "== starting a cluster: relevo up (API, scheduler, a worker, its own Postgres), two more workers"
    start up "$target/relevo" up
    wait_for_line up " is up"
    start worker-2 "$target/relevo" worker
    start worker-3 "$target/relevo" worker

    # An interrupted demo leaves a run that waits for a gateway that is gone.
    for state in pending running; do
        "$target/relevo" run list --source "$source" --state "$state" | sed -n 's/^\([0-9][0-9]*\) .*/\1/p'
    done | while read -r run; do
        say "== cancelling run $run, which an earlier demo left behind"
        "$target/relevo" run cancel "$run" >/dev/null
        timeout 60 "$target/relevo" run watch "$run" >/dev/null 2>&1 || true
    done

    say "== importing the shop's backup: the gateway makes it and calls back, three workers load it"
    say
    attended "$target/relevo" backup run --source "$source" --mode webhook --wait
    say
    "$target/relevo" run list
    "$target/relevo" queue list

    key=$folder/data/api-key
    cat <<TEXT

== what to look at next
  API         curl -H "X-API-Key: \$(cat $key)" $api/api/v1/runs
  metrics     curl $api/metrics
  commands    RELEVO_CONFIG=$RELEVO_CONFIG $target/relevo run list
  logs        $logs/
TEXT
    if [[ -n $stay ]]; then
        say
        say "Ctrl-C stops everything; the data stay in $folder"
        trap 'exit 0' INT TERM
        wait -n "${children[@]}" || true
        die "a process ended by itself; its log is in $logs"
    fi
    say
    say "== stopping everything"
}
