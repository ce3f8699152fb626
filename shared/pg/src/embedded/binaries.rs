//! Finds the installed server binaries, or says how to install them here.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::EmbeddedError;

/// The oldest major version that the control plane's schema works on.
const OLDEST_MAJOR: u32 = 14;

/// Names a folder with the server's binaries; nothing else is searched then.
const OVERRIDE: &str = "RELEVO_PG_BIN";

const NEEDED: [&str; 3] = ["postgres", "initdb", "pg_ctl"];

/// Parent folders of versioned installations, with what follows the version.
const PATTERNS: [(&str, &str, &str); 7] = [
    ("/usr/lib/postgresql", "", "bin"),          // Debian, Ubuntu
    ("/usr", "pgsql-", "bin"),                   // PGDG on Fedora and RHEL
    ("/usr/lib", "postgresql", "bin"),           // SUSE
    ("/usr/libexec", "postgresql", ""),          // Alpine
    ("/opt/homebrew/opt", "postgresql@", "bin"), // Homebrew on ARM
    ("/usr/local/opt", "postgresql@", "bin"),    // Homebrew on Intel
    ("/opt/postgresql", "", "bin"),              // by hand
];

/// One installation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Binaries {
    pub(super) major: u32,
    pub(super) dir: PathBuf,
}

/// Every usable installation, newest last.
fn installed() -> Result<Vec<Binaries>, EmbeddedError> {
    let (dirs, searched) = match std::env::var_os(OVERRIDE).filter(|dir| !dir.is_empty()) {
        Some(dir) => {
            let dir = PathBuf::from(dir);
            let searched =
                format!("{OVERRIDE} names {}, which holds no {}", dir.display(), NEEDED.join(", "));
            (BTreeSet::from([dir]), searched)
        }
        None => (candidates(), "searched the usual places and PATH".to_owned()),
    };
    let mut found: Vec<_> = dirs
        .into_iter()
        .filter(|dir| NEEDED.iter().all(|name| dir.join(name).is_file()))
        .filter_map(|dir| Some(Binaries { major: major_version(&dir)?, dir }))
        .collect();
    found.sort();
    if found.is_empty() {
        return Err(EmbeddedError::NoBinaries { searched, install: install_command(None) });
    }
    Ok(found)
}

/// The newest installation; for existing data the one whose major version made them.
pub(super) fn choose(data: &Path, made_by: Option<&str>) -> Result<Binaries, EmbeddedError> {
    let found = installed()?;
    if let Some(version) = made_by {
        let fitting = found.iter().rfind(|binaries| binaries.major.to_string() == version);
        return fitting.cloned().ok_or_else(|| {
            let majors: BTreeSet<_> = found.iter().map(|binaries| binaries.major).collect();
            let majors: Vec<_> = majors.iter().map(ToString::to_string).collect();
            EmbeddedError::WrongVersion {
                data: data.to_owned(),
                found: version.to_owned(),
                installed: majors.join(", "),
            }
        });
    }
    match found.into_iter().next_back() {
        Some(newest) if newest.major >= OLDEST_MAJOR => Ok(newest),
        Some(newest) => Err(EmbeddedError::TooOld {
            major: newest.major,
            needed: OLDEST_MAJOR,
            bin_dir: newest.dir,
            install: install_command(None),
        }),
        None => Err(EmbeddedError::NoBinaries {
            searched: "searched the usual places and PATH".to_owned(),
            install: install_command(None),
        }),
    }
}

fn candidates() -> BTreeSet<PathBuf> {
    let mut dirs = BTreeSet::new();
    for (parent, prefix, suffix) in PATTERNS {
        let Ok(entries) = std::fs::read_dir(parent) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let version = name.to_str().and_then(|name| name.strip_prefix(prefix));
            let numbered = version.is_some_and(|version| version.parse::<u32>().is_ok());
            // SUSE and Alpine link the plain name to the default version.
            if numbered || (!prefix.is_empty() && version == Some("")) {
                dirs.insert(entry.path().join(suffix));
            }
        }
    }
    let path: OsString = std::env::var_os("PATH").unwrap_or_default();
    dirs.extend(std::env::split_paths(&path).filter(|dir| dir.is_absolute()));
    dirs
}

/// The major version, from `postgres (PostgreSQL) 15.14 (Debian …)`.
fn major_version(dir: &Path) -> Option<u32> {
    let output = Command::new(dir.join("postgres")).arg("--version").output().ok()?;
    parse_major(&String::from_utf8_lossy(&output.stdout))
}

fn parse_major(version_line: &str) -> Option<u32> {
    let version =
        version_line.split_whitespace().find(|word| word.starts_with(char::is_numeric))?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// How to install a server on this system.
fn install_command(os_release: Option<&str>) -> String {
    let read = || {
        std::fs::read_to_string("/etc/os-release")
            .or_else(|_| std::fs::read_to_string("/usr/lib/os-release"))
            .unwrap_or_default()
    };
    let text = os_release.map_or_else(read, str::to_owned);
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches('"').to_ascii_lowercase()
    };
    let names = format!("{} {}", value("ID"), value("ID_LIKE"));
    let command = names.split_whitespace().find_map(|name| match name {
        "debian" | "ubuntu" => Some("apt-get install -y postgresql"),
        "fedora" | "rhel" | "centos" => Some("dnf install -y postgresql-server"),
        "suse" | "opensuse" => Some("zypper install -y postgresql-server"),
        "alpine" => Some("apk add postgresql"),
        "arch" => Some("pacman -S --noconfirm postgresql"),
        _ => None,
    });
    match command {
        Some(command) if rustix::process::geteuid().is_root() => command.to_owned(),
        Some(command) => format!("sudo {command}"),
        None if cfg!(target_os = "macos") => "brew install postgresql@17".to_owned(),
        None => "your package manager (the package with postgres, initdb and pg_ctl)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (line, major) in [
            ("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)", Some(15)),
            ("postgres (PostgreSQL) 18beta2", Some(18)),
            ("postgres (PostgreSQL) 9.6.24", Some(9)),
            ("something else", None),
        ] {
            assert_eq!(parse_major(line), major, "{line}");
        }
    }

    #[test]
    fn each_system_gets_its_own_command() {
        for (release, part) in [
            ("ID=debian\n", "apt-get install -y postgresql"),
            ("NAME=x\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", "apt-get"),
            ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", "dnf install"),
            ("ID=opensuse-leap\nID_LIKE=\"suse opensuse\"\n", "zypper"),
            ("ID=alpine\n", "apk add"),
            ("ID=plan9\n", "package"),
        ] {
            let command = install_command(Some(release));
            assert!(command.contains(part), "{release}: {command}");
        }
    }
}
