# `./dev package`, `./dev deb-test`, `./dev upgrade`: sourced by ./dev, whose functions it uses.
# shellcheck shell=bash disable=SC2154

# Programs that only packaging needs, in a folder of their own.
release_tools=$root/target/tools
# What is handed out.
package_folder=$root/target/package
# Static binaries for these; zig is the C compiler and the linker for both.
static_targets=(x86_64-unknown-linux-musl aarch64-unknown-linux-musl)

need_cargo_deb() {
    [[ -x $release_tools/bin/cargo-deb ]] && return
    say "cargo-deb is being installed into $release_tools"
    cargo install --quiet --locked --root "$release_tools" cargo-deb
}

need_zigbuild() {
    [[ -x $release_tools/zig/bin/cargo-zigbuild ]] && return
    need python
    say "cargo-zigbuild is being installed into $release_tools/zig"
    python3 -m venv --clear "$release_tools/zig"
    "$release_tools/zig/bin/pip" install --quiet --disable-pip-version-check \
        cargo-zigbuild==0.24.0 ziglang==0.17.1
}

# The version that the manifests name.
release_version() { cargo pkgid -p relevo | sed 's/.*[#@]//'; }

# package_static TARGET: an archive of a static binary with what belongs to it; 1 where the
# toolchain has no standard library for it.
package_static() {
    local target=$1 name folder
    if ! rustc --print target-libdir --target "$target" | xargs test -d; then
        if ! has rustup || ! rustup target add "$target"; then
            say "left out: $target, for which this toolchain has no standard library"
            return 1
        fi
    fi
    PATH=$release_tools/zig/bin:$PATH CARGO_PROFILE_RELEASE_STRIP=symbols \
        attended cargo-zigbuild zigbuild --release --locked --target "$target" -p relevo --bin relevo
    name=relevo-$(release_version)-$target
    folder=$package_folder/$name
    mkdir -p "$folder"
    cp "target/$target/release/relevo" README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT \
        relevo.example.toml "$folder"
    cp -r deploy/linux "$folder/systemd"
    python3 deploy/release/inventory.py notices --target "$target" >"$folder/THIRD-PARTY.txt"
    # Of the same sources always the same bytes.
    tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$(git log -1 --format=%ct)" \
        -C "$package_folder" -c "$name" | gzip -n9 >"$folder.tar.gz"
    rm -rf "$folder"
}

# package [deb|static]…: everything that a release hands out, in target/package.
package() {
    local what target wanted=("$@")
    ((${#wanted[@]})) || wanted=(deb static)
    for what in "${wanted[@]}"; do
        [[ $what == deb || $what == static ]] || die "package what? ./dev package [deb] [static]"
    done
    need cargo cc python
    rm -rf "$package_folder"
    mkdir -p "$package_folder"
    python3 deploy/release/inventory.py notices >"$package_folder/THIRD-PARTY.txt"
    python3 deploy/release/inventory.py sbom >"$package_folder/relevo-$(release_version).cdx.json"
    for what in "${wanted[@]}"; do
        if [[ $what == deb ]]; then
            has dpkg-shlibdeps || apt_install dpkg-dev
            need_cargo_deb
            attended cargo build --release --locked -p relevo --bin relevo
            "$release_tools/bin/cargo-deb" -p relevo --no-build --output "$package_folder/"
        else
            need_zigbuild
            for target in "${static_targets[@]}"; do
                package_static "$target" || true
            done
        fi
    done
    (cd "$package_folder" && sha256sum -- * >../SHA256SUMS && mv ../SHA256SUMS .)
    say "in $package_folder:"
    ls -l "$package_folder" >&2
}

# deb_test: the package in a clean Debian: installed, run, updated, removed, purged.
deb_test() {
    local package system mirror suite
    ((EUID == 0)) || die "deb-test makes a system of its own, for which it must be root"
    package=("$package_folder"/relevo_*.deb)
    [[ -e ${package[0]} ]] || package deb
    package=("$package_folder"/relevo_*.deb)
    has debootstrap || apt_install debootstrap
    # From where this machine gets its own packages.
    # shellcheck disable=SC2016
    read -r mirror suite < <(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' \
        'Origin: Debian' 'Created-By: Packages' | grep -v -e -security -e -updates | head -n 1)
    [[ -n ${mirror:-} ]] || die "deb-test needs a Debian whose packages it can take"
    system=$(mktemp -d "${TMPDIR:-/var/tmp}/relevo-debian.XXXXXX")
    clean_up+=("$system")
    chmod 755 "$system"
    say "making a clean $suite in $system"
    attended debootstrap --variant=minbase --include=postgresql "$suite" "$system" "$mirror" \
        >"$package_folder/debootstrap.log" || { tail "$package_folder/debootstrap.log" >&2; return 1; }
    rm -f "$package_folder/debootstrap.log"
    cp "${package[0]}" "$system/tmp/relevo.deb"
    cp deploy/release/in-debian.sh deploy/docker/healthcheck "$system/tmp"
    # Its processes see nothing else, and end with it.
    # shellcheck disable=SC2016
    attended unshare --mount --pid --fork --kill-child --propagation private sh -c '
        mount -t proc proc "$0/proc" && mount -t tmpfs tmpfs "$0/dev/shm" &&
            exec chroot "$0" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin bash /tmp/in-debian.sh' \
        "$system" || die "the package is not as it should be: the last step above says where"
    say "the package installs, runs and uninstalls"
}

# upgrade [COMMIT]: an earlier version and this one side by side, by the test of rolling restarts.
upgrade() {
    local commit=${1:-$(cat deploy/release/previous)} folder=$root/target/previous
    commit=$(git rev-parse --verify --quiet "$commit^{commit}") || die "there is no commit ${1:-$commit}"
    need cargo cc postgres
    if [[ ! -x $folder/relevo-$commit ]]; then
        rm -rf "$folder/source"
        mkdir -p "$folder/source"
        git archive "$commit" | tar -x -C "$folder/source"
        attended env CARGO_TARGET_DIR="$folder/target" \
            cargo build --locked --manifest-path "$folder/source/Cargo.toml" -p relevo --bin relevo
        cp "$folder/target/debug/relevo" "$folder/relevo-$commit"
        rm -rf "$folder/source" "$folder/target"
    fi
    export RELEVO_TEST_PREVIOUS=$folder/relevo-$commit
    say "from $commit to what is here"
    run_tests -p relevo-tests --test it operated::rolling
}
