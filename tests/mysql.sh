# A real MySQL server for `./dev differential --mysql`: Debian's unstable suite has the packages. They
# are unpacked, not installed, with all that they need down to the C library, so that nothing of
# another suite gets into the system. Sourced by `./dev`.

# fetch_mysql: sets mysql_bin, a folder with mysqld, mysql and mysqldump; keeps what is there.
mysql_bin=
fetch_mysql() {
    local folder=$root/.relevo/mysql keys=/usr/share/keyrings/debian-archive-keyring.gpg
    mysql_bin=$folder/bin
    [[ ! -x $mysql_bin/mysqldump ]] || return 0
    has apt-get && has dpkg-deb && [[ -e $keys ]] ||
        die "a real MySQL is fetched with Debian's apt-get: put mysqld, mysql and mysqldump into a \
folder and name it in RELEVO_TEST_MYSQL_BIN"
    # From where this machine gets its own packages.
    local mirror
    # shellcheck disable=SC2016
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Created-By: Packages' |
        grep -v -e -security -e -updates | head -n 1)
    [[ -n $mirror ]] || die "a real MySQL is fetched from Debian's archive, which apt-get does not know here"
    rm -rf "$folder"
    mkdir -p "$folder"/apt/{lists/partial,archives/partial,debs,none} "$folder"/{root,bin}
    : >"$folder/apt/status"
    printf 'deb [signed-by=%s] %s unstable main\n' "$keys" "$mirror" >"$folder/apt/sources.list"
    # Mirrors that stand still have lists whose time is up; what counts here is the signature.
    cat >"$folder/apt/conf" <<CONF
Dir::Etc::sourcelist "$folder/apt/sources.list";
Dir::Etc::sourceparts "$folder/apt/none";
Dir::Etc::preferencesparts "$folder/apt/none";
Dir::State::lists "$folder/apt/lists";
Dir::State::status "$folder/apt/status";
Dir::Cache "$folder/apt";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
APT::Sandbox::User "root";
CONF
    say "fetching a MySQL server from Debian's unstable suite"
    local packages
    APT_CONFIG=$folder/apt/conf apt-get update -qq
    # Neither the server nor its client runs anything of Perl.
    packages=$(APT_CONFIG=$folder/apt/conf apt-get install -s --no-install-recommends \
        mysql-server-core mysql-client-core | awk '$1 == "Inst" { print $2 }' | grep -v -e perl -e gdbm)
    # shellcheck disable=SC2086
    (cd "$folder/apt/debs" && APT_CONFIG=$folder/apt/conf apt-get download -qq $packages)
    local package program
    for package in "$folder"/apt/debs/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
    rm -rf "$folder/apt"
    local libraries
    libraries=$(dirname "$(find "$folder/root/usr/lib" -name 'libc.so.6' | head -n 1)")
    for program in mysqld mysql mysqldump; do
        local options=
        [[ $program != mysqld ]] ||
            options="--no-defaults --lc-messages-dir=$folder/root/usr/share/mysql"
        # `--no-defaults` has to come first, and is given by whoever starts it.
        cat >"$mysql_bin/$program" <<SCRIPT
#!/bin/sh
[ "\$1" != --no-defaults ] || shift
exec $libraries/ld-linux*.so.* --library-path $libraries \\
    $folder/root/usr/*bin/$program ${options:---no-defaults} \\
    --character-sets-dir=$folder/root/usr/share/mysql/charsets "\$@"
SCRIPT
        chmod 755 "$mysql_bin/$program"
    done
    "$mysql_bin/mysqldump" --version >/dev/null || die "the MySQL of Debian's unstable suite does not run here"
}
