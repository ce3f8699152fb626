#!/bin/sh
# Removes Relevo's binary and systemd units. Settings (/etc/relevo), data (/var/lib/relevo) and the
# user stay, unless --purge is given.
set -eu

destdir=${DESTDIR:-}
purge=
case ${1:-} in
"") ;;
--purge) purge=yes ;;
*) echo "usage: uninstall.sh [--purge]" >&2; exit 2 ;;
esac
if [ -z "$destdir" ] && [ "$(id -u)" -ne 0 ]; then
    echo "uninstall.sh: must be root" >&2
    exit 1
fi

here=$(dirname "$(readlink -f "$0")")
if [ -z "$destdir" ] && command -v systemctl >/dev/null; then
    # Workers first: their jobs end or are given back.
    systemctl disable --now 'relevo-worker@*.service' 2>/dev/null || true
    for unit in relevo-scheduler relevo-api relevo; do
        systemctl disable --now "$unit.service" 2>/dev/null || true
    done
fi
for unit in "$here"/*.service; do
    rm -f "$destdir/etc/systemd/system/$(basename "$unit")"
done
rm -f "$destdir/usr/local/bin/relevo"
if [ -n "$purge" ]; then
    rm -rf "$destdir/etc/relevo" "$destdir/var/lib/relevo"
    [ -n "$destdir" ] || userdel relevo 2>/dev/null || true
fi
if [ -z "$destdir" ] && command -v systemctl >/dev/null; then
    systemctl daemon-reload || true
fi
