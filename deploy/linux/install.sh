#!/bin/sh
# Installs Relevo's binary and systemd units. Run as root; run again to update: settings and data
# stay as they are. Starts nothing.
#
#   install.sh BINARY        target/release/relevo, for one
#   DESTDIR=/some/root       installs below that folder, without users and systemd (for packagers)
set -eu

binary=${1:?"usage: install.sh BINARY"}
destdir=${DESTDIR:-}
here=$(dirname "$(readlink -f "$0")")

[ -f "$binary" ] || { echo "install.sh: there is no $binary" >&2; exit 1; }
if [ -z "$destdir" ] && [ "$(id -u)" -ne 0 ]; then
    echo "install.sh: must be root" >&2
    exit 1
fi

install -d -m 755 "$destdir/usr/local/bin" "$destdir/etc/systemd/system"
install -d -m 750 "$destdir/etc/relevo"
install -d -m 700 "$destdir/etc/relevo/credentials"
# In one step, so that a running service never sees half of it.
install -m 755 "$binary" "$destdir/usr/local/bin/.relevo.new"
mv -f "$destdir/usr/local/bin/.relevo.new" "$destdir/usr/local/bin/relevo"
for unit in "$here"/*.service; do
    install -m 644 "$unit" "$destdir/etc/systemd/system/"
done
[ -e "$destdir/etc/relevo/relevo.env" ] ||
    install -m 640 "$here/relevo.env" "$destdir/etc/relevo/relevo.env"

if [ -z "$destdir" ]; then
    getent group relevo >/dev/null || groupadd --system relevo
    getent passwd relevo >/dev/null ||
        useradd --system --gid relevo --home-dir /var/lib/relevo --shell /usr/sbin/nologin relevo
    chown root:relevo /etc/relevo /etc/relevo/relevo.env
    ! command -v systemctl >/dev/null || systemctl daemon-reload || true
fi

cat <<'TEXT'
Relevo is installed. On one machine, with its own Postgres server:
  systemctl enable --now relevo
Or with a database of yours, whose URL stands in /etc/relevo/credentials/database_url (mode 600):
  systemctl enable --now relevo-api relevo-scheduler relevo-worker@1
TEXT
