//! What the pages say, in each language, and which language a browser gets.

use axum::http::{HeaderMap, header};
use relevo_queue::JobState;
use relevo_runs::RunState;

use super::cookies::cookie;

/// The cookie that remembers a choice of language.
pub(super) const LANGUAGE_COOKIE: &str = "relevo_language";

macro_rules! words {
    ($($name:ident: $english:literal, $spanish:literal;)*) => {
        /// The texts of one language.
        pub(super) struct Words {
            /// The language's code, `en` or `es`.
            pub(super) code: &'static str,
            $(pub(super) $name: &'static str,)*
        }

        static ENGLISH: Words = Words { code: "en", $($name: $english,)* };
        static SPANISH: Words = Words { code: "es", $($name: $spanish,)* };
    };
}

words! {
    // The frame.
    overview: "Overview", "Resumen";
    runs: "Runs", "Ejecuciones";
    queues: "Queues", "Colas";
    dead_letters: "Dead letters", "Trabajos muertos";
    jobs: "Jobs", "Trabajos";
    schedules: "Schedules", "Programación";
    sources: "Sources", "Orígenes";
    alerts: "Alerts", "Alertas";
    connections: "Connections", "Conexiones";
    uploads: "Uploads", "Cargas";
    pages: "Pages", "Páginas";
    log_in: "Log in", "Entrar";
    log_out: "Log out", "Salir";
    other_language: "Español", "English";
    skip_to_content: "Skip to content", "Ir al contenido";
    // Logging in.
    api_key: "API key", "Clave de API";
    log_in_hint: "Show an API key with the scope read; with operate you can also act. Or ask for a link that works once:", "Use una clave de API con el permiso read; con operate también puede actuar. O pida un enlace de un solo uso:";
    wrong_key: "This key is unknown, expired or revoked.", "Esta clave no existe, caducó o fue revocada.";
    key_cannot_read: "This key may not look at the console: it needs the scope read.", "Esta clave no puede ver la consola: necesita el permiso read.";
    too_many_attempts: "Too many attempts from your address. Wait a minute.", "Demasiados intentos desde su dirección. Espere un minuto.";
    link_spent: "This link has been used, or has expired. Make another one:", "Este enlace ya se usó o caducó. Pida otro:";
    link_ready: "This link opens a session on this browser. It works once.", "Este enlace abre una sesión en este navegador. Sirve una sola vez.";
    logged_out: "You are logged out.", "Ha salido de la consola.";
    // Columns and facts.
    run: "Run", "Ejecución";
    job: "Job", "Trabajo";
    kind: "Kind", "Tipo";
    queue: "Queue", "Cola";
    source: "Source", "Origen";
    state: "State", "Estado";
    phase: "Phase", "Fase";
    trigger: "Started by", "Iniciada por";
    created: "Created", "Creado";
    started: "Started", "Inicio";
    finished: "Finished", "Fin";
    took: "Took", "Duración";
    attempts: "Attempts", "Intentos";
    deaths: "Worker deaths", "Caídas del worker";
    priority: "Priority", "Prioridad";
    not_before: "Not before", "No antes de";
    error: "Error", "Error";
    payload: "Payload", "Datos";
    progress: "Progress", "Avance";
    log: "Log", "Bitácora";
    options: "Options", "Opciones";
    figures: "Figures", "Cifras";
    name: "Name", "Nombre";
    rhythm: "Rhythm", "Ritmo";
    starts: "Starts", "Inicia";
    next_fires: "Next", "Siguientes";
    last_fire: "Last", "Última";
    from: "From", "De";
    to: "Into", "Hacia";
    mode: "Mode", "Modo";
    actions: "Actions", "Acciones";
    waiting: "Waiting", "En espera";
    running: "Running", "En curso";
    later: "Later", "Más tarde";
    retrying: "Retrying", "Por reintentar";
    held: "Held back", "Retenidos";
    dead: "Dead", "Muertos";
    oldest: "Oldest waiting", "Espera más larga";
    host: "Host", "Equipo";
    last_seen: "Last seen", "Visto";
    last_success: "Last success", "Último éxito";
    next_start: "Next start", "Próximo inicio";
    last_run: "Last run", "Última ejecución";
    // Overview.
    workers: "Workers", "Workers";
    no_workers: "No worker is alive: nothing is being done.", "No hay ningún worker vivo: no se hace nada.";
    scheduler: "Scheduler", "Programador";
    term: "term", "mandato";
    scheduler_leads: "leads", "activo";
    scheduler_absent: "none leads", "ninguno activo";
    no_scheduler: "No scheduler leads: nothing is started by the clock, and jobs of dead workers are not taken back.", "Ningún programador está activo: nada se inicia por horario y no se recuperan los trabajos de workers caídos.";
    recent_runs: "Recent runs", "Ejecuciones recientes";
    never: "never", "nunca";
    by_hand_only: "by hand only", "solo a mano";
    draining: "finishing up", "terminando";
    // Lists.
    none_match: "Nothing matches.", "Nada coincide.";
    no_runs: "No runs yet.", "Aún no hay ejecuciones.";
    no_queues: "Every queue is empty.", "Todas las colas están vacías.";
    no_dead: "No dead letters. Good.", "No hay trabajos muertos. Bien.";
    no_schedules: "No schedules. Those of backup sources appear when a scheduler leads.", "No hay programación. La de los orígenes aparece cuando hay un programador activo.";
    no_sources: "No source is configured. docs/backup-import.md tells how to add a shop.", "No hay orígenes configurados. docs/es/importacion-de-respaldos.md explica cómo agregar una tienda.";
    any: "any", "cualquiera";
    filter: "Filter", "Filtrar";
    clear: "Clear", "Quitar";
    older: "Older", "Más antiguos";
    newest: "Newest", "Más recientes";
    // A run.
    certificate: "Certificate", "Certificado";
    table: "Table", "Tabla";
    rows_read: "Rows read", "Filas leídas";
    rows_loaded: "Rows loaded", "Filas cargadas";
    rows_before: "Rows before", "Filas antes";
    difference: "Difference", "Diferencia";
    contents: "Contents", "Contenido";
    equal: "equal", "igual";
    different: "different", "diferente";
    not_compared: "not compared", "no comparado";
    total: "Total", "Total";
    not_carried_over: "Not carried over", "No trasladado";
    notes: "Notes", "Notas";
    cancel: "Cancel", "Cancelar";
    cancel_run: "Cancel this run", "Cancelar esta ejecución";
    cancel_explained: "What was loaded is removed; the previous data stay as they are.", "Se quita lo cargado; los datos anteriores quedan como están.";
    cancelling: "being cancelled", "cancelándose";
    time_left: "left", "restante";
    live: "live", "en vivo";
    connection_lost: "reconnecting…", "reconectando…";
    log_beginning: "Earlier lines", "Líneas anteriores";
    empty_log: "Nothing logged yet.", "Aún sin anotaciones.";
    document: "as JSON", "como JSON";
    // Actions.
    pause: "Pause", "Pausar";
    resume: "Resume", "Reanudar";
    paused: "paused", "en pausa";
    retry: "Retry", "Reintentar";
    run_now: "Run now", "Iniciar ahora";
    discard: "Discard", "Descartar";
    save: "Save", "Guardar";
    save_and_retry: "Save and retry", "Guardar y reintentar";
    edit_payload: "Edit the payload", "Editar los datos";
    retry_all: "Retry all that match…", "Reintentar todos los que coinciden…";
    discard_all: "Discard all that match…", "Descartar todos los que coinciden…";
    bulk_retry_asks: "Retry these dead letters?", "¿Reintentar estos trabajos muertos?";
    bulk_discard_asks: "Discard these dead letters for good?", "¿Descartar para siempre estos trabajos muertos?";
    matching: "match now", "coinciden ahora";
    go_back: "Go back", "Volver";
    yes_cancel: "Yes, cancel it", "Sí, cancelar";
    yes_discard: "Yes, discard it", "Sí, descartar";
    force: "also if it is suspiciously small", "aunque sea sospechosamente pequeño";
    inactive: "inactive", "inactiva";
    enable: "Enable", "Activar";
    disable: "Disable", "Desactivar";
    test: "Test", "Probar";
    add_connection: "Add a connection", "Agregar una conexión";
    change_connection: "Change it", "Cambiarla";
    change_hint: "What is left empty stays as it is. Secrets are kept sealed and never shown again.", "Lo que se deja vacío queda como está. Los secretos se guardan cifrados y no se vuelven a mostrar.";
    add_hint: "Address and key are kept sealed and never shown again. A private address is reached only where outbound.allow of the configuration names it.", "La dirección y la clave se guardan cifradas y no se vuelven a mostrar. A una dirección privada solo se llega si outbound.allow de la configuración la nombra.";
    forget: "Forget it", "Olvidarla";
    yes_forget: "Yes, forget it", "Sí, olvidarla";
    forget_explained: "Its secrets are deleted. What names it fails until there is one of this name again.", "Se borran sus secretos. Lo que la nombra falla hasta que haya otra con este nombre.";
    used_by: "Used by", "La usan";
    roll_back: "Put the previous data back", "Restaurar los datos anteriores";
    yes_roll_back: "Yes, put them back", "Sí, restaurarlos";
    roll_back_explained: "The tables from before this run take the place of the present ones, in one short transaction. The run's own tables are kept beside them until the next import succeeds.", "Las tablas de antes de esta ejecución ocupan el lugar de las actuales, en una transacción corta. Las de la ejecución se conservan al lado hasta la próxima importación con éxito.";
    rolled_back: "Rolled back", "Revertida";
    by: "by", "por";
    schema: "Schema", "Esquema";
    tables: "Tables", "Tablas";
    // Connections, alerts, uploads.
    address: "Address", "Dirección";
    url: "URL", "URL";
    from_address: "Sender (mail servers)", "Remitente (servidores de correo)";
    key_of_gateway: "API key (gateways)", "Clave de API (gateways)";
    kept_in: "Kept in", "Guardada en";
    in_file: "configuration", "configuración";
    in_control_plane: "here, sealed", "aquí, cifrada";
    has_key: "with key", "con clave";
    changed_at: "Changed", "Cambiada";
    works: "works", "funciona";
    works_not: "does not work", "no funciona";
    no_connections: "No connections.", "No hay conexiones.";
    what: "What", "Qué";
    since: "Since", "Desde";
    told: "Told", "Avisado";
    over: "Over", "Terminó";
    times_seen: "Seen", "Vista";
    open: "open", "abierta";
    open_only: "Open ones only", "Solo las abiertas";
    show_all: "All", "Todas";
    no_alerts: "No alerts. Good.", "No hay alertas. Bien.";
    open_alerts: "alerts are open", "alertas abiertas";
    filename: "File", "Archivo";
    size: "Size", "Tamaño";
    expires: "Expires", "Caduca";
    complete: "complete", "completa";
    no_uploads: "No uploads.", "No hay cargas.";
    file_problem: "The configuration file makes no sense; the schedules read before stay in force:", "El archivo de configuración no es válido; sigue en vigor la programación leída antes:";
    // What was done.
    done_kept: "The connection is kept.", "La conexión se guardó.";
    done_changed: "The connection is changed.", "La conexión se cambió.";
    done_forgotten: "The connection is forgotten.", "La conexión se olvidó.";
    done_enabled: "The schedule fires again.", "La programación vuelve a iniciar.";
    done_disabled: "The schedule fires no more.", "La programación ya no inicia.";
    done_rolled_back: "The previous data are back in their place.", "Los datos anteriores están de nuevo en su lugar.";
    done_paused: "The queue is paused; what runs goes on.", "La cola está en pausa; lo que corre sigue.";
    done_resumed: "The queue goes on.", "La cola sigue.";
    done_retried: "Back to work.", "De vuelta a la cola.";
    done_discarded: "Discarded.", "Descartado.";
    done_saved: "The payload is saved.", "Los datos se guardaron.";
    done_cancelled: "Cancel requested.", "Se pidió la cancelación.";
    done_started: "Started.", "Iniciado.";
    // Refusals.
    refused: "That was not done", "No se hizo";
    not_found: "There is nothing here", "Aquí no hay nada";
    broken: "Something went wrong", "Algo salió mal";
}

impl Words {
    /// The texts of the language of this code.
    pub(super) fn of(code: &str) -> Option<&'static Self> {
        [&ENGLISH, &SPANISH].into_iter().find(|words| words.code == code)
    }

    /// The language that was chosen, else the one that the browser likes best, else English.
    pub(super) fn for_request(headers: &HeaderMap) -> &'static Self {
        let chosen = cookie(headers, LANGUAGE_COOKIE).and_then(Self::of);
        chosen.or_else(|| preferred(headers)).unwrap_or(&ENGLISH)
    }

    /// The other language.
    pub(super) fn other(&self) -> &'static Self {
        if self.code == "en" { &SPANISH } else { &ENGLISH }
    }

    /// A run's state.
    pub(super) fn run_state(&self, state: RunState) -> &'static str {
        let (english, spanish) = match state {
            RunState::Pending => ("pending", "pendiente"),
            RunState::Running => ("running", "en curso"),
            RunState::Succeeded => ("succeeded", "con éxito"),
            RunState::Failed => ("failed", "fallida"),
            RunState::Cancelled => ("cancelled", "cancelada"),
        };
        self.choose(english, spanish)
    }

    /// A job's state.
    pub(super) fn job_state(&self, state: JobState) -> &'static str {
        let (english, spanish) = match state {
            JobState::Scheduled => ("scheduled", "programado"),
            JobState::Waiting => ("held back", "retenido"),
            JobState::Available => ("available", "disponible"),
            JobState::Running => ("running", "en curso"),
            JobState::Retryable => ("retryable", "por reintentar"),
            JobState::Completed => ("completed", "terminado"),
            JobState::Cancelled => ("cancelled", "cancelado"),
            JobState::Dead => ("dead", "muerto"),
        };
        self.choose(english, spanish)
    }

    /// A phase of a pipeline; one that is not known here as it is called.
    pub(super) fn phase<'a>(&self, phase: &'a str) -> &'a str {
        let (english, spanish) = match phase {
            "request" => ("asking for the backup", "pidiendo el respaldo"),
            "download" => ("downloading", "descargando"),
            "load" => ("loading", "cargando"),
            "finish" => ("checking and switching", "verificando y cambiando"),
            other => return other,
        };
        self.choose(english, spanish)
    }

    /// How long ago something was.
    pub(super) fn ago(&self, duration: &str) -> String {
        if self.code == "en" { format!("{duration} ago") } else { format!("hace {duration}") }
    }

    /// In how long something will be.
    pub(super) fn in_the_future(&self, duration: &str) -> String {
        if self.code == "en" { format!("in {duration}") } else { format!("en {duration}") }
    }

    /// The word of this language.
    pub(super) fn choose<'a>(&self, english: &'a str, spanish: &'a str) -> &'a str {
        if self.code == "en" { english } else { spanish }
    }
}

/// The best liked of our languages in `Accept-Language`.
fn preferred(headers: &HeaderMap) -> Option<&'static Words> {
    let accepted = headers.get(header::ACCEPT_LANGUAGE)?.to_str().ok()?;
    let mut best: Option<(f32, &'static Words)> = None;
    for item in accepted.split(',').take(50) {
        let mut parts = item.split(';');
        let tag = parts.next().unwrap_or_default().trim();
        let quality = parts
            .find_map(|part| part.trim().strip_prefix("q="))
            .map_or(1.0, |quality| quality.parse().unwrap_or(0.0));
        let Some(words) = Words::of(&tag.get(..2).unwrap_or_default().to_lowercase()) else {
            continue;
        };
        if quality > 0.0 && best.is_none_or(|(most, _)| quality > most) {
            best = Some((quality, words));
        }
    }
    best.map(|(_, words)| words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn language(accepted: &str, chosen: Option<&str>) -> &'static str {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_LANGUAGE, accepted.parse().unwrap());
        if let Some(chosen) = chosen {
            let cookie = format!("a=b; {LANGUAGE_COOKIE}={chosen}");
            headers.insert(header::COOKIE, cookie.parse().unwrap());
        }
        Words::for_request(&headers).code
    }

    #[test]
    fn the_browser_and_the_person_say_which_language() {
        assert_eq!(language("es-MX,es;q=0.9,en;q=0.8", None), "es");
        assert_eq!(language("de;q=0.9, en;q=0.3, ES;q=0.4", None), "es");
        assert_eq!(language("de-DE,fr", None), "en");
        assert_eq!(language("es;q=0, en;q=0.1", None), "en");
        assert_eq!(language("ñ,;q=,é", None), "en");
        assert_eq!(language("es", Some("en")), "en", "a choice goes first");
        assert_eq!(language("es", Some("xx")), "es");
    }
}
