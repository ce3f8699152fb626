//! Listening: which queues got work, which of our jobs were cancelled.
//!
//! Notifications only make things faster. A connection that is gone is replaced, one that is dead
//! without saying so is found by asking it something now and then, and after each replacement the
//! queues are probed, since nobody knows what was missed.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Executor as _;
use sqlx::postgres::{PgConnectOptions, PgListener, PgNotification, PgPoolOptions};

use super::Listen;
use super::connect::{pause, within};
use super::job::CancelReason;
use super::tenure::Tenure;
use crate::JobId;
use crate::sql::{CHANNEL_CONTROL, CHANNEL_JOB};

/// Silence after which the connection is asked whether it lives.
const SILENCE_MAX: Duration = Duration::from_secs(5);

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Listens until aborted.
pub(crate) async fn run(tenure: Arc<Tenure>) {
    let options = match &tenure.config.listen {
        Listen::Pool => tenure.queue.pool().connect_options().as_ref().clone(),
        Listen::At(options) => options.as_ref().clone(),
        Listen::Nowhere => return,
    };
    let options = options.application_name("relevo listen");
    let mut failures = 0;
    loop {
        match listen(&tenure, options.clone(), &mut failures).await {
            Ok(never) => match never {},
            Err(error) => {
                failures += 1;
                tenure.observer.database_error("listen");
                tracing::warn!(
                    failures,
                    error = &error as &dyn std::error::Error,
                    "not listening; jobs are found by polling until the connection is back"
                );
            }
        }
        tokio::time::sleep(pause(failures)).await;
    }
}

async fn listen(
    tenure: &Tenure,
    options: PgConnectOptions,
    failures: &mut u32,
) -> Result<std::convert::Infallible, sqlx::Error> {
    // A pool of one is what the listener takes; it never gives it back.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_secs(10))
        .connect_lazy_with(options);
    let mut listener = within(Duration::from_secs(15), async {
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.listen_all([CHANNEL_JOB, CHANNEL_CONTROL]).await?;
        Ok(listener)
    })
    .await?;
    *failures = 0;
    tenure.hints.any();
    loop {
        match tokio::time::timeout(SILENCE_MAX, listener.try_recv()).await {
            Ok(Ok(Some(notification))) => heard(tenure, &notification),
            Ok(Ok(None)) => {
                return Err(sqlx::Error::Io(std::io::Error::new(
                    std::io::ErrorKind::ConnectionAborted,
                    "the listening connection was closed",
                )));
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                within(ANSWER_TIMEOUT, (&mut listener).execute("-- still_there\nSELECT 1")).await?;
            }
        }
    }
}

fn heard(tenure: &Tenure, notification: &PgNotification) {
    if notification.channel() == CHANNEL_JOB {
        tenure.hints.queue(notification.payload());
        return;
    }
    // "session job": whatever else is said there is not for us.
    let Some((session, job)) = notification.payload().split_once(' ') else { return };
    if session.parse() == Ok(tenure.session)
        && let Ok(job) = job.parse::<JobId>()
    {
        tenure.leases.cancel(job, CancelReason::Requested);
    }
}
