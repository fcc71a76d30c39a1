//! `GET /metrics`: what the supervisor knows and what the process costs, and then what each part counts.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::service;
use crate::supervisor::status::{Report, Status, seconds};
use crate::telemetry::metrics::{Kind, Page, Source};

/// What the bot says of itself in the status, and the names it has here.
const DISCORD: [(&str, &str, Kind, &str); 6] = [
    ("identifies", "perch_discord_identifies", Kind::Gauge, "Gateway sessions begun anew within the last day."),
    ("resumes", "perch_discord_resumes_total", Kind::Counter, "Gateway sessions resumed."),
    ("replies", "perch_discord_replies_total", Kind::Counter, "Messages answered on Discord."),
    ("refused", "perch_discord_refused_total", Kind::Counter, "Answers that Discord refused."),
    ("lost", "perch_discord_lost_total", Kind::Counter, "Answers that could not be given."),
    ("guilds", "perch_discord_guilds", Kind::Gauge, "Guilds that the bot is in."),
];

/// The whole page.
#[must_use]
pub fn page(report: &Report, sources: &[std::sync::Arc<dyn Source>]) -> String {
    let mut page = Page::default();
    let status = report.status();
    process(&mut page, &status);
    supervisor(&mut page, &status, report);
    for source in sources {
        source.write(&mut page);
    }
    page.text()
}

/// Under the names that every Prometheus client has for these
/// (<https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>).
fn process(page: &mut Page, status: &Status) {
    let started = status.perch.started;
    page.family("process_start_time_seconds", Kind::Gauge, "When the process started, in seconds since 1970.")
        .value(&[], seconds(started));
    let uptime = SystemTime::now().duration_since(started).unwrap_or_default().as_secs();
    page.family("perch_uptime_seconds", Kind::Gauge, "For how long the process has run.").value(&[], uptime);
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    #[expect(clippy::cast_precision_loss, reason = "processor time in seconds is far from 2^53")]
    let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    page.family("process_cpu_seconds_total", Kind::Counter, "Processor time used.").value(&[], cpu);
    // "VmRSS:      1234 kB" (proc_pid_status(5)).
    let told = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let names = [
        ("VmSize:", "process_virtual_memory_bytes", "Address space."),
        ("VmRSS:", "process_resident_memory_bytes", "Memory that is resident, shared pages in full."),
    ];
    for (key, name, help) in names {
        let line = told.lines().find_map(|line| line.strip_prefix(key));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        if let Some(kilobytes) = kilobytes {
            page.family(name, Kind::Gauge, help).value(&[], kilobytes << 10);
        }
    }
    // A process that may not be dumped sees its own descriptors only as root (proc_pid_fd(5)).
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        page.family("process_open_fds", Kind::Gauge, "Open file descriptors.").value(&[], open.count());
    }
}

fn supervisor(page: &mut Page, status: &Status, report: &Report) {
    page.family("perch_build_info", Kind::Gauge, "The running binary.").value(&[("version", status.perch.version)], 1);
    let version = status.config.version.as_ref().map(ToString::to_string).unwrap_or_default();
    let since = status.config.since.and_then(|since| since.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    page.family("perch_config_info", Kind::Gauge, "The version of the configuration that is served.")
        .value(&[("version", &version)], 1);
    page.family("perch_config_since_seconds", Kind::Gauge, "Since when, in seconds since 1970; 0 before the first.")
        .value(&[], since.as_secs());
    page.family("perch_ready", Kind::Gauge, "Whether this host should get traffic.")
        .value(&[], u8::from(status.perch.ready));
    let mut family = page.family("perch_service_up", Kind::Gauge, "Whether a service runs.");
    for (name, health) in &status.services {
        family.value(&[("service", name)], u8::from(health.state == service::State::Running));
    }
    let mut family = page.family("perch_service_restarts_total", Kind::Counter, "Starts after a panic or an error.");
    for (name, health) in &status.services {
        family.value(&[("service", name)], health.restarts);
    }
    let help = "Changes of configuration and secrets, by outcome.";
    let mut family = page.family("perch_changes_total", Kind::Counter, help);
    for (outcome, count) in report.counts() {
        family.value(&[("outcome", outcome)], count);
    }
    let tls = status.details.get("http").and_then(|http| http.get("tls"));
    let certificate = |key: &str| tls.and_then(|tls| tls.get(key)?.as_u64());
    if let Some(expiry) = certificate("not_after") {
        let help = "When the certificate that is served expires, in seconds since 1970.";
        page.family("perch_certificate_expiry_seconds", Kind::Gauge, help).value(&[], expiry);
    }
    if tls.is_some() {
        let help = "How many orders of a certificate failed in a row; 0 after one that did not.";
        let failures = certificate("failures").unwrap_or(0);
        page.family("perch_certificate_order_failures", Kind::Gauge, help).value(&[], failures);
    }
    let Some(discord) = status.details.get("discord") else { return };
    for (key, name, kind, help) in DISCORD {
        if let Some(value) = discord.get(key).and_then(serde_json::Value::as_u64) {
            page.family(name, kind, help).value(&[], value);
        }
    }
}
