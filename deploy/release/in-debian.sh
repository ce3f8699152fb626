#!/bin/bash
# Inside of a clean Debian, by `./dev deb-test`: the package in /tmp/relevo.deb is installed, run,
# updated, removed and purged. Ends with 1 at the first thing that is not as it should be.
set -euo pipefail

step() { printf '== %s\n' "$*"; }
# no COMMAND…: ends with 1 where it succeeds.
no() { if "$@"; then echo "it should not be: $*" >&2; exit 1; fi; }
as_relevo=(setpriv --reuid=relevo --regid=relevo --clear-groups env RELEVO_DATA_DIR=/var/lib/relevo)

# wait_for SECONDS COMMAND…
wait_for() {
    local tick seconds=$1
    shift
    for ((tick = 0; tick < seconds * 5; tick++)); do
        ! "$@" >/dev/null 2>&1 || return 0
        sleep 0.2
    done
    echo "waited $seconds s in vain for: $*" >&2
    return 1
}

ended() { "${as_relevo[@]}" relevo job show "$1" --json | grep -q '"completed"'; }

# The service as its unit runs it, with a job.
run_it() {
    local pid job
    install -d -o relevo -g relevo -m 700 /var/lib/relevo
    "${as_relevo[@]}" relevo up >/tmp/up.log 2>&1 &
    pid=$!
    wait_for 120 bash /tmp/healthcheck || { cat /tmp/up.log >&2; return 1; }
    job=$("${as_relevo[@]}" relevo job enqueue Noop --json | sed -n 's/.*"id": *\([0-9]*\).*/\1/p' | head -n 1)
    wait_for 60 ended "$job"
    "${as_relevo[@]}" relevo doctor
    kill -TERM "$pid"
    wait "$pid"
}

step "no toolchain is here"
no command -v cargo
no command -v rustc

step "install"
dpkg -i /tmp/relevo.deb
relevo --version
[[ $(stat -c '%U %G %a' /etc/relevo/relevo.toml) == "root relevo 640" ]]
[[ $(stat -c '%U %a' /etc/relevo/credentials) == "root 700" ]]
[[ $(dpkg-query -W -f '${Conffiles}' relevo | grep -c /etc/relevo/) == 2 ]]
[[ -s /usr/share/doc/relevo/THIRD-PARTY.txt && -s /usr/share/doc/relevo/copyright ]]
for unit in relevo relevo-api relevo-scheduler relevo-worker@; do
    [[ -s /usr/lib/systemd/system/$unit.service ]]
done
"${as_relevo[@]}" relevo config check >/dev/null

step "run"
run_it

step "the demo: a shop's dump into a Postgres of its own"
"${as_relevo[@]}" relevo demo --exit

step "update: changed settings stay"
echo '# mine' >>/etc/relevo/relevo.env
dpkg -i /tmp/relevo.deb
tail -n 1 /etc/relevo/relevo.env | grep -qx '# mine'
run_it

step "remove: settings and data stay"
dpkg -r relevo
[[ ! -e /usr/bin/relevo && ! -e /usr/lib/systemd/system/relevo.service ]]
[[ -e /etc/relevo/relevo.env && -n $(ls /var/lib/relevo) ]]

step "purge: data stay, with their user"
dpkg -P relevo
[[ ! -e /etc/relevo && -d /var/lib/relevo ]]
getent passwd relevo >/dev/null

step "installed and purged without data: nothing stays"
rm -rf /var/lib/relevo
dpkg -i /tmp/relevo.deb >/dev/null
dpkg -P relevo
[[ ! -e /etc/relevo ]]
no getent passwd relevo
left=$(find / -xdev -name '*relevo*' -not -path '/tmp/*' -not -path '/proc/*')
[[ -z $left ]] || { echo "left: $left" >&2; exit 1; }
