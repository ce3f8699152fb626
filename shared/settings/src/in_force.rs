//! The settings in force, which may change while a process runs.
//!
//! Whoever needs them asks at each piece of work, and keeps what it got for that piece: a job, a
//! request, a pass. Who replaces them (the one that watches the file) makes sure that they hold.

use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::sync::watch;

use crate::Settings;

/// What holds, and what is wrong with what is on disk now.
#[derive(Debug, Clone)]
pub struct Version {
    /// The settings in force.
    pub settings: Arc<Settings>,
    /// The file they are from, if there is one.
    pub file: Option<PathBuf>,
    /// Since when they are in force.
    pub loaded_at: DateTime<Utc>,
    /// Why the file as it is now is not in force, and since when.
    pub problem: Option<(String, DateTime<Utc>)>,
}

/// The settings in force. Cheap to clone; every clone sees the same.
#[derive(Debug, Clone)]
pub struct InForce(Arc<watch::Sender<Version>>);

impl InForce {
    /// Settings that came from `file`, or from no file.
    #[must_use]
    pub fn new(settings: Settings, file: Option<PathBuf>) -> Self {
        let settings = Arc::new(settings);
        let version = Version { settings, file, loaded_at: Utc::now(), problem: None };
        Self(Arc::new(watch::Sender::new(version)))
    }

    /// The settings of this moment.
    #[must_use]
    pub fn now(&self) -> Arc<Settings> {
        Arc::clone(&self.0.borrow().settings)
    }

    /// The version of this moment.
    #[must_use]
    pub fn version(&self) -> Version {
        self.0.borrow().clone()
    }

    /// Tells of every version from now on.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Version> {
        self.0.subscribe()
    }

    /// Puts other settings in force; there is nothing wrong with the file.
    pub fn replace(&self, settings: Settings) {
        self.0.send_modify(|version| {
            version.settings = Arc::new(settings);
            version.loaded_at = Utc::now();
            version.problem = None;
        });
    }

    /// Notes that the file makes no sense; what was in force stays.
    pub fn refuse(&self, problem: String) {
        self.0.send_modify(|version| version.problem = Some((problem, Utc::now())));
    }
}

impl From<Settings> for InForce {
    fn from(settings: Settings) -> Self {
        Self::new(settings, None)
    }
}
