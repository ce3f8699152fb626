//! Cycles: health, both directions, all tables; once, or until told to stop.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::Serialize;
use sqlx::postgres::PgListener;
use tokio_util::sync::CancellationToken;

use crate::catalog::{self, Table};
use crate::config::Config;
use crate::error::SyncError;
use crate::push::Push;
use crate::reconcile::{self, Difference, Repair};
use crate::rest::Rest;
use crate::store::{Direction, Store, connect};
use crate::{init, pull};

/// Both schemas are compared this often.
const SCHEMA_EVERY: Duration = Duration::from_secs(600);
/// Old lines are deleted this often.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);
/// The shortest pause between two cycles.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// On a line paid by volume, looks are so many times rarer.
const METERED: u32 = 10;
/// How long a change that was announced is waited for to have company.
const GATHER: Duration = Duration::from_millis(100);

/// What one cycle did.
#[derive(Debug, Default, Serialize)]
pub struct Cycle {
    /// A person paused it: nothing was done.
    pub paused: bool,
    /// Why Supabase could not be used, where it couldn't: that is no error.
    pub offline: Option<String>,
    /// Rows written here.
    pub down: u64,
    /// Rows that arrived in Supabase.
    pub up: u64,
    /// Versions that lost and are kept in the conflict records.
    pub conflicts: u64,
    /// What went wrong, by table.
    pub errors: BTreeMap<String, String>,
}

/// The synchronisation of one database with one project.
pub struct Engine {
    store: Store,
    rest: Rest,
    config: Config,
    tables: Vec<Table>,
    schema_read: Option<Instant>,
    deep: Option<Instant>,
    pruned: Option<Instant>,
}

impl Engine {
    /// Connects, and takes the right to synchronise.
    ///
    /// # Errors
    /// [`SyncError::Busy`] where another process does, and what is wrong with the database.
    pub async fn open(config: Config) -> Result<Self, SyncError> {
        let pool = connect(&config).await?;
        let rest = Rest::new(&config)?;
        let store = Store::take(pool).await?;
        let schema = &config.local_postgres.schema;
        let tables = catalog::read(&store.pool, schema, &config.sync.tables).await?;
        Ok(Self { store, rest, config, tables, schema_read: None, deep: None, pruned: None })
    }

    /// One cycle over all tables, or one of them.
    ///
    /// # Errors
    /// What concerns all tables: the local database, the key. Being offline and the errors of
    /// single tables are in the answer.
    pub async fn cycle(&mut self, only: Option<&str>) -> Result<Cycle, SyncError> {
        let mut cycle = Cycle::default();
        if let Some(name) = only
            && !self.tables.iter().any(|table| table.name == name)
        {
            return Err(SyncError::NotFound(format!("table {name} isn't synchronised")));
        }
        if self.store.is_paused().await? {
            cycle.paused = true;
            return Ok(cycle);
        }
        let ended = self.both_ways(only, &mut cycle).await;
        let traffic = self.rest.traffic.take();
        let told = match (&ended, cycle.errors.iter().next()) {
            (Ok(()), Some((table, error))) => {
                Err(SyncError::Answer(format!("table {table}: {error}")))
            }
            _ => Ok(()),
        };
        let error = ended.as_ref().err().or(told.as_ref().err());
        self.store.note_cycle(error, traffic).await?;
        match ended {
            Err(error) if error.is_offline() => {
                cycle.offline = Some(error.line());
                Ok(cycle)
            }
            Err(error) => Err(error),
            Ok(()) => {
                self.prune().await?;
                Ok(cycle)
            }
        }
    }

    async fn both_ways(&mut self, only: Option<&str>, cycle: &mut Cycle) -> Result<(), SyncError> {
        self.compare_schemas(cycle).await?;
        let interval = Duration::from_secs(self.config.sync.interval_seconds);
        let deep = self.deep.is_none_or(|at| at.elapsed() >= interval);
        let chosen = |table: &&Table| only.is_none_or(|name| table.name == name);
        for table in self.tables.iter().filter(chosen) {
            if table.shared.is_empty() {
                continue;
            }
            let started = Instant::now();
            let pulled = pull::pull(&self.store, &self.rest, &self.config, table, deep).await;
            match pulled {
                Ok(pulled) => {
                    cycle.down += pulled.applied;
                    cycle.conflicts += pulled.won + pulled.lost;
                    let error = (pulled.held > 0).then(|| {
                        format!(
                            "{} rows were refused by the local database and are kept aside",
                            pulled.held
                        )
                    });
                    self.store
                        .log(
                            Direction::Down,
                            &table.name,
                            pulled.applied,
                            error.as_deref(),
                            started,
                        )
                        .await?;
                    if let Some(error) = error {
                        cycle.errors.insert(table.name.clone(), error);
                    }
                }
                Err(error) if error.is_offline() => return Err(error),
                Err(error @ (SyncError::TakenOver | SyncError::Connect(_))) => return Err(error),
                Err(error) => {
                    let line = error.line();
                    self.store.log(Direction::Down, &table.name, 0, Some(&line), started).await?;
                    self.schema_read = None;
                    cycle.errors.insert(table.name.clone(), line);
                }
            }
        }
        if deep {
            self.deep = Some(Instant::now());
        }
        let chosen: Vec<Table> = self
            .tables
            .iter()
            .filter(|table| only.is_none_or(|name| table.name == name) && !table.shared.is_empty())
            .cloned()
            .collect();
        let started = Instant::now();
        let push = Push::new(&self.store, &self.rest, &self.config, &chosen);
        let (pushed, ended) = Box::pin(push.run()).await;
        for (table, pushed) in pushed {
            cycle.up += pushed.sent;
            cycle.down += pushed.absorbed.applied;
            cycle.conflicts += pushed.absorbed.won + pushed.absorbed.lost;
            let error = pushed.error.as_deref();
            self.store.log(Direction::Up, &table, pushed.sent, error, started).await?;
            if let Some(error) = pushed.error {
                self.schema_read = None;
                cycle.errors.entry(table).or_insert(error);
            }
        }
        ended
    }

    /// Finds out which columns exist on both sides. A table that Supabase doesn't have is left out;
    /// the others go on.
    async fn compare_schemas(&mut self, cycle: &mut Cycle) -> Result<(), SyncError> {
        if self.schema_read.is_some_and(|at| at.elapsed() < SCHEMA_EVERY) {
            return Ok(());
        }
        let remote = self.rest.schema().await?;
        let schema = &self.config.local_postgres.schema;
        self.tables = catalog::read(&self.store.pool, schema, &self.config.sync.tables).await?;
        let mut told = Vec::new();
        for table in &mut self.tables {
            let Some(columns) = remote.get(&table.name) else {
                let reason = "Supabase doesn't have the table".to_owned();
                told.push(format!("{}: {reason}", table.name));
                table.shared = BTreeSet::new();
                cycle.errors.insert(table.name.clone(), reason);
                continue;
            };
            told.extend(init::drift(table, columns));
            table.shared.retain(|name| columns.contains(name));
        }
        self.store.note_drift((!told.is_empty()).then(|| told.join("\n")).as_deref()).await?;
        for line in told {
            tracing::warn!(drift = line, "the two schemas differ");
        }
        self.schema_read = Some(Instant::now());
        Ok(())
    }

    async fn prune(&mut self) -> Result<(), SyncError> {
        if self.pruned.is_none_or(|at| at.elapsed() >= PRUNE_EVERY) {
            self.store.prune().await?;
            self.pruned = Some(Instant::now());
        }
        Ok(())
    }

    /// Compares all tables, or one, and puts right what differs where it is told to. Parents are put
    /// right first; rows that were deleted are removed from their children first.
    ///
    /// # Errors
    /// Those of the line and of the database.
    pub async fn reconcile(
        &mut self,
        only: Option<&str>,
        repair: Repair,
    ) -> Result<Vec<Difference>, SyncError> {
        self.compare_schemas(&mut Cycle::default()).await?;
        let mut found = Vec::new();
        // Children first: a parent that was deleted remotely can go only after them.
        for table in self.tables.iter().rev().filter(|table| !table.shared.is_empty()) {
            if only.is_none_or(|name| table.name == name) {
                let (store, rest, tables) = (&self.store, &self.rest, &self.tables);
                found.push(
                    reconcile::table(store, rest, &self.config, tables, table, repair).await?,
                );
            }
        }
        found.reverse();
        Ok(found)
    }

    /// Cycles until `stop`. Local changes wake it; while nothing changes it looks every
    /// `interval_seconds`, and more often while something does.
    ///
    /// # Errors
    /// [`SyncError::TakenOver`]; anything else is noted, and tried again.
    pub async fn run(&mut self, stop: &CancellationToken) -> Result<(), SyncError> {
        let longest = Duration::from_secs(self.config.sync.interval_seconds);
        let longest = if self.config.sync.metered { longest * METERED } else { longest };
        let mut pause = PAUSE_MIN;
        let mut listener = None;
        let mut was_offline = false;
        while !stop.is_cancelled() {
            if listener.is_none() {
                listener = self.listen().await.ok();
            }
            let cycle = tokio::select! {
                cycle = self.cycle(None) => cycle,
                () = stop.cancelled() => break,
            };
            match cycle {
                Ok(Cycle { offline: Some(reason), .. }) => {
                    if !was_offline {
                        tracing::warn!(
                            reason,
                            "offline: local changes are recorded and sent later"
                        );
                    }
                    was_offline = true;
                    pause = (pause * 2).min(longest);
                }
                Ok(cycle) => {
                    if was_offline && !cycle.paused {
                        tracing::info!("online again");
                        was_offline = false;
                    }
                    let idle = cycle.down + cycle.up == 0;
                    pause = if idle { (pause * 2).min(longest) } else { PAUSE_MIN };
                }
                Err(error @ SyncError::TakenOver) => return Err(error),
                Err(error) => {
                    tracing::error!(error = error.line(), "a cycle failed; it is tried again");
                    listener = None;
                    pause = (pause * 2).min(longest);
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
                // Offline, a local change is no reason to try again.
                heard = announced(&mut listener), if !was_offline => {
                    if heard { tokio::time::sleep(GATHER).await; } else { listener = None; }
                }
            }
        }
        Ok(())
    }

    async fn listen(&self) -> Result<PgListener, SyncError> {
        let mut listener = PgListener::connect_with(&self.store.pool).await?;
        listener.listen("_sync_pending").await?;
        Ok(listener)
    }
}

/// Waits for the next announcement of a local change; false when the connection is gone.
async fn announced(listener: &mut Option<PgListener>) -> bool {
    match listener {
        Some(listener) => listener.recv().await.is_ok(),
        None => std::future::pending().await,
    }
}
