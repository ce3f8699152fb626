//! What the simulator was told to do wrong, and what it has seen.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use relevo_tests::gateway::{Control, Fault, PlannedFault, Record};

use crate::Gateway;

/// The plan of faults and the record of events.
#[derive(Default)]
pub(crate) struct Plan {
    record: Mutex<Record>,
}

impl Plan {
    /// The first planned fault that `choose` accepts; one of its occasions is then used up.
    pub(crate) fn take<T>(&self, choose: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        let faults = &mut self.lock().faults;
        let (position, chosen) = faults
            .iter()
            .enumerate()
            .find_map(|(position, planned)| Some((position, choose(&planned.fault)?)))?;
        if let Some(times) = &mut faults[position].times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                faults.remove(position);
            }
        }
        Some(chosen)
    }

    /// Whether this very fault is planned; one of its occasions is then used up.
    pub(crate) fn happens(&self, fault: &Fault) -> bool {
        self.take(|planned| (planned == fault).then_some(())).is_some()
    }

    /// Writes something into the record.
    pub(crate) fn note(&self, write: impl FnOnce(&mut Record)) {
        write(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `GET /_control`
pub(crate) async fn record(State(gateway): State<Arc<Gateway>>) -> Json<Record> {
    Json(gateway.plan.lock().clone())
}

/// `POST /_control`
pub(crate) async fn plan(
    State(gateway): State<Arc<Gateway>>,
    Json(control): Json<Control>,
) -> Result<StatusCode, (StatusCode, String)> {
    if let Some(dump) = control.dump {
        gateway
            .backups
            .set_source(dump)
            .map_err(|error| (StatusCode::UNPROCESSABLE_ENTITY, format!("{error:#}")))?;
    }
    if let Some(mut faults) = control.faults {
        faults.retain(|PlannedFault { times, .. }| *times != Some(0));
        gateway.plan.note(|record| record.faults = faults);
    }
    Ok(StatusCode::NO_CONTENT)
}
