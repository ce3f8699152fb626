//! The way to the collector: OTLP over HTTP with protobuf, in batches, beside the work.
//!
//! A span that ended waits in a bounded queue; a thread sends what is there every second. What
//! doesn't fit is dropped: a collector that is slow or away costs traces, never work.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanId, TraceId, TracerProvider as _};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, IdGenerator, RandomIdGenerator, Sampler, SdkTracer,
    SdkTracerProvider, SpanData, SpanExporter,
};
use relevo_settings::Telemetry;
use secrecy::ExposeSecret as _;
use tokio::runtime::Handle;

use super::RECORDER;

/// Spans that may wait for the collector; about 1 MB.
const QUEUE_MAX: usize = 2_048;

/// Spans in one request.
const BATCH_MAX: usize = 512;

/// How often what waits is sent.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long the collector may take for one request, tries after a failure included.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why traces could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The endpoint or the headers are of no use.
    #[error("the way to the collector of traces can't be set up")]
    Exporter(#[source] ExporterBuildError),
    /// The HTTP client can't be made.
    #[error("the HTTP client for traces can't be set up")]
    Client(#[source] reqwest::Error),
}

/// Sets up traces for the whole process as the settings say; without a collector it does nothing.
/// `role` says what the process does: `api`, `worker`, and so on. Must be called inside the tokio
/// runtime that lives as long as the process; a second call changes nothing.
///
/// # Errors
/// [`TraceError`]. A collector that can't be reached is no error: it may come up later.
pub fn init(settings: &Telemetry, role: &str) -> Result<(), TraceError> {
    let Some(endpoint) = &settings.otlp_endpoint else { return Ok(()) };
    if RECORDER.get().is_some() {
        return Ok(());
    }
    let client = reqwest::Client::builder()
        .timeout(EXPORT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(TraceError::Client)?;
    let headers = settings.otlp_headers.as_ref().map(|list| headers(list.expose_secret()));
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(OnRuntime { client, runtime: Handle::current() })
        .with_endpoint(format!("{endpoint}/v1/traces"))
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(EXPORT_TIMEOUT)
        .with_headers(headers.unwrap_or_default())
        .build()
        .map_err(TraceError::Exporter)?;
    let batches =
        BatchSpanProcessor::builder(Watched { exporter, refused: AtomicBool::new(false) })
            .with_batch_config(
                BatchConfigBuilder::default()
                    .with_max_queue_size(QUEUE_MAX)
                    .with_max_export_batch_size(BATCH_MAX)
                    .with_scheduled_delay(INTERVAL)
                    .build(),
            )
            .build();
    let name = settings.service_name.clone().unwrap_or_else(|| format!("relevo-{role}"));
    let resource = Resource::builder()
        .with_service_name(name)
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("process.pid", i64::from(std::process::id())))
        .with_attribute(KeyValue::new("relevo.role", role.to_owned()))
        .build();
    let new_traces = Sampler::TraceIdRatioBased(settings.trace_ratio);
    let provider = SdkTracerProvider::builder()
        .with_span_processor(batches)
        .with_sampler(Sampler::ParentBased(Box::new(new_traces)))
        .with_id_generator(FixedOrRandom::default())
        .with_resource(resource)
        .build();
    let tracer = provider.tracer("relevo");
    // Somebody who was faster has set up the same.
    let _ = RECORDER.set(Recorder { provider, tracer });
    Ok(())
}

/// `name=value,name=value`, values percent-encoded where need be.
fn headers(list: &str) -> HashMap<String, String> {
    list.split(',')
        .filter_map(|part| part.split_once('='))
        .map(|(name, value)| (name.trim().to_owned(), crate::redact::percent_decoded(value.trim())))
        .collect()
}

/// What records spans in this process.
#[derive(Debug)]
pub(super) struct Recorder {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Recorder {
    pub(super) fn tracer(&self) -> &SdkTracer {
        &self.tracer
    }

    pub(super) async fn shutdown(&self, timeout: Duration) {
        let provider = self.provider.clone();
        // It waits for the sending thread, which in turn needs this runtime.
        let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(timeout));
        if let Ok(Err(error)) = ended.await {
            tracing::debug!(%error, "the last traces did not leave");
        }
    }
}

/// Sends from the batches' own thread, where no runtime is, by the process's runtime.
#[derive(Debug)]
struct OnRuntime {
    client: reqwest::Client,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for OnRuntime {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move {
            let answer = client.execute(request.try_into()?).await?;
            let status = answer.status();
            let headers = answer.headers().clone();
            // Of what the collector says only the status counts.
            drop(answer);
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            Ok::<_, reqwest::Error>(response)
        });
        Ok(sent.await??)
    }
}

/// Tells once when the collector stops taking traces, and once when it takes them again.
#[derive(Debug)]
struct Watched {
    exporter: opentelemetry_otlp::SpanExporter,
    refused: AtomicBool,
}

impl SpanExporter for Watched {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let outcome = self.exporter.export(batch).await;
        let refused_before = self.refused.swap(outcome.is_err(), Ordering::Relaxed);
        match &outcome {
            Err(error) if !refused_before => {
                tracing::warn!(spans, "the collector takes no traces, they are dropped: {error}");
            }
            Ok(()) if refused_before => tracing::info!("the collector takes traces again"),
            Ok(()) | Err(_) => {}
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

thread_local! {
    static NEXT: Cell<FixedIds> = const { Cell::new(FixedIds { trace_id: None, span_id: None }) };
}

/// Ids for the one span that is started while they are held; random where there are none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FixedIds {
    trace_id: Option<TraceId>,
    span_id: Option<SpanId>,
}

impl FixedIds {
    pub(super) fn of(trace_id: TraceId, span_id: SpanId) -> Self {
        Self { trace_id: Some(trace_id), span_id: Some(span_id) }
    }

    pub(super) fn hold<T>(self, start: impl FnOnce() -> T) -> T {
        NEXT.set(self);
        let started = start();
        NEXT.set(Self::default());
        started
    }
}

/// The interface of the recorder has no way to give a span its id; this is one.
#[derive(Debug, Default)]
struct FixedOrRandom {
    random: RandomIdGenerator,
}

impl IdGenerator for FixedOrRandom {
    fn new_trace_id(&self) -> TraceId {
        NEXT.get().trace_id.unwrap_or_else(|| self.random.new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        NEXT.get().span_id.unwrap_or_else(|| self.random.new_span_id())
    }
}
