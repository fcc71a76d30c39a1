//! Daemons with services of the test's own. The supervisor takes the signals of its process, so each runs in one of
//! its own: the test binary starts itself again, for one test that is ignored otherwise.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use perch::aws::Aws;
use perch::chat::Responder;
use perch::chat::history::History;
use perch::config::Config;
use perch::http::{Http, Resources};
use perch::secrets::Kept;
use perch::service::{Context, Live, Next, Part, Problem, Service};
use perch::source::Uri;
use perch::store::Store;
use perch::supervisor::{self, End, Options};
use perch::telemetry::{self, Output};
use tokio::sync::watch;

/// Names the directory with `perch.toml` to the process that is to be a daemon.
pub const DIRECTORY: &str = "PERCH_TEST_DIRECTORY";

/// What makes the test binary run nothing but `test`.
pub fn arguments(test: &str) -> [&str; 5] {
    [test, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"]
}

/// The directory, if this process is meant to be a daemon.
pub fn directory() -> Option<PathBuf> {
    std::env::var_os(DIRECTORY).map(PathBuf::from)
}

/// Is the daemon until its end, with the HTTP service beside `others`, all answering with `responder`. Does nothing
/// where the test was not started to be one.
pub fn run(responder: impl Responder + 'static, others: impl FnOnce() -> Vec<Arc<dyn Service>>) {
    let Some(directory) = directory() else { return };
    perch::os::pin_name_service();
    perch::tls::install_default_provider();
    let output =
        if std::env::var_os("PERCH_LOG").is_some_and(|log| log == "journal") { Output::Journal } else { Output::Json };
    let level = telemetry::start(output, tracing::Level::INFO).unwrap();
    let responder: Arc<dyn Responder> = Arc::new(responder);
    let mut services: Vec<Arc<dyn Service>> = others();
    let store = Store::new();
    let history = History::new(Arc::new(store.conversations()));
    let (requests, rooms) = (Arc::default(), Arc::default());
    let resources = Resources { requests, history: Arc::clone(&history), limits: Arc::default(), rooms };
    services.push(Arc::new(Http::new(Vec::new(), resources, 1_024)));
    let services = services
        .into_iter()
        .map(|inner| Arc::new(Answering { inner, responder: Arc::clone(&responder) }) as Arc<dyn Service>)
        .collect();
    let options = Options {
        uri: Uri::File(directory.join("perch.toml")),
        aws: Aws::default(),
        state_dir: directory.join("state"),
        runtime_dir: directory.join("run"),
        services,
        changes: store.changes(),
        store,
        history,
        kept: Kept::default(),
        level,
        metrics: Arc::new([]),
        simulator: None,
    };
    // More threads than cores, so that one that is stuck does not hold up the others.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let end = runtime.block_on(supervisor::run(options));
    runtime.shutdown_background();
    std::process::exit(i32::from(!matches!(end, Ok(End::Drained))));
}

/// A service that answers with another responder than the configuration names.
struct Answering {
    inner: Arc<dyn Service>,
    responder: Arc<dyn Responder>,
}

impl Answering {
    fn edit(&self, live: &Live) -> Arc<Live> {
        Arc::new(Live {
            change: live.change,
            version: live.version.clone(),
            config: Arc::clone(&live.config),
            secrets: live.secrets.clone(),
            responder: Arc::clone(&self.responder),
            parts: live.parts.clone(),
        })
    }
}

#[async_trait]
impl Service for Answering {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn wanted(&self, config: &Config) -> bool {
        self.inner.wanted(config)
    }

    async fn prepare(&self, next: &Next<'_>, running: Option<&Live>) -> Result<Part, Vec<Problem>> {
        self.inner.prepare(next, running).await
    }

    async fn run(&self, context: Context) -> anyhow::Result<()> {
        let Context { mut live, stop, departure, reporter } = context;
        let (edited, receiver) = watch::channel(self.edit(&live.borrow_and_update()));
        let follow = async {
            while live.changed().await.is_ok() {
                let newest = self.edit(&live.borrow_and_update());
                edited.send_replace(newest);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = self.inner.run(Context { live: receiver, stop, departure, reporter }) => ended,
            () = follow => unreachable!("it never ends"),
        }
    }
}
