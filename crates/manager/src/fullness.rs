//! How full everything is that the cluster is written to: the log, the event stream, the managers' account, and
//! this manager's own disk; whether the bucket of snapshots answers, without which nothing is made shorter; and whether
//! all servers are there that keep the log.
//!
//! | how full | what happens |
//! |---|---|
//! | half | a snapshot is made, and the whole log behind it is removed ([`crate::keeper`]) |
//! | 70 %, 85 % | a warning, an alarm |
//! | 95 % | new commands are refused: what is left is kept for the facts that keep the cluster alive, such as what nodes report |
//!
//! An event stream that is full forgets its oldest events, as it should; that is worth a word only where it forgets them
//! before their time. A disk is judged by what is free: most disks are used for other things, too.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::stream::{Info, PeerInfo};
use longshore_bus::Bus;
use longshore_core::cluster::Input;
use longshore_proto::alarm::Severity;
use longshore_proto::codec;
use longshore_proto::event::Event;
use longshore_proto::quantity::format_bytes;
use longshore_proto::subject::{event_stream, snapshot_stream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::debug;

use crate::Clock;
use crate::log::Look;
use crate::streams::is_missing;

/// How often everything is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How many findings wait for the loop; the next look waits for it, too.
const ALARMS_WAITING_MAX: usize = 16;
/// From which part on the log is made shorter, in percent.
const RELIEVE_PERCENT: u64 = 50;
/// From which part on it is worth a warning, an alarm, a refusal.
const LEVELS: [(u64, Severity); 3] =
    [(95, Severity::Critical), (85, Severity::Alarm), (70, Severity::Warning)];
/// How long the bucket of snapshots may give no answer, or a server be away, before that is worth a word: longer than
/// servers elect, or begin anew.
const SILENT_MAX: Duration = Duration::from_secs(15);
/// How long the server that leads the log may not have heard another one that is there: they speak each second.
const UNHEARD_MAX: Duration = Duration::from_secs(10);
/// How long one answer of the bucket may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// About what a message of the log has beside its record: its id, what it expects, and the stream's own.
const MESSAGE_BYTES: u64 = 160;
/// What must be free on this manager's disk, in bytes and in percent: less of both is worth a warning, or an alarm.
const FREE: [(u64, u64, Severity); 2] =
    [(5 << 30, 5, Severity::Alarm), (20 << 30, 10, Severity::Warning)];
/// With less than this, a write may fail any moment. Of a disk that is small, a part of it.
const FREE_BYTES_MIN: u64 = 256 << 20;
const FREE_PERCENT_MIN: u64 = 10;

/// What everybody in this manager needs to know of it.
#[derive(Debug)]
pub(crate) struct Fullness {
    /// Why new commands are refused, while they are.
    refusing: watch::Receiver<Option<String>>,
    /// How many bytes the log had at the last look, and may have.
    log: watch::Receiver<(u64, Option<u64>)>,
    /// How many were appended since.
    appended_bytes: u64,
    /// Changes each time that the log had better be shorter.
    pub(crate) relieve: watch::Receiver<u64>,
    /// For the brain.
    pub(crate) alarms: mpsc::Receiver<Input>,
}

impl Fullness {
    /// A record was appended.
    pub(crate) fn appended(&mut self, bytes: usize) {
        if self.log.has_changed().unwrap_or(false) {
            self.log.mark_unchanged();
            self.appended_bytes = 0;
        }
        self.appended_bytes += bytes as u64 + MESSAGE_BYTES;
    }

    /// Why new commands are refused just now. What was appended since the last look counts: a busy leader fills in a
    /// second what was to last.
    pub(crate) fn refusal(&self) -> Option<String> {
        let (used, limit) = *self.log.borrow();
        // A look that came after the last record has counted it.
        let is_newer = self.log.has_changed().unwrap_or(false);
        let appended_bytes = if is_newer { 0 } else { self.appended_bytes };
        let log = judge_log(used + appended_bytes, limit);
        let full = (log.severity == Severity::Critical).then_some(log.text);
        full.or_else(|| self.refusing.borrow().clone())
    }
}

/// Looks, for as long as it is polled.
pub(crate) struct Watcher {
    pub(crate) core: Bus,
    pub(crate) log: Look,
    pub(crate) data_dir: PathBuf,
    pub(crate) events_age_max: Duration,
    pub(crate) clock: Clock,
    refusing: watch::Sender<Option<String>>,
    log_size: watch::Sender<(u64, Option<u64>)>,
    relieve: watch::Sender<u64>,
    alarms: mpsc::Sender<Input>,
}

/// How large the log is, and who keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Extent {
    bytes: u64,
    bytes_max: Option<u64>,
    /// How many NATS servers are to keep it.
    servers: usize,
    /// Which of them are not there.
    away: Vec<String>,
}

impl Extent {
    fn of(info: &Info) -> Self {
        let others = info.cluster.as_ref().map_or(&[][..], |cluster| &cluster.replicas);
        let away = others.iter().filter(|other| is_away(other)).map(|other| other.name.clone());
        Self {
            bytes: info.state.bytes,
            bytes_max: u64::try_from(info.config.max_bytes).ok().filter(|limit| *limit > 0),
            servers: info.config.num_replicas,
            away: away.collect(),
        }
    }
}

/// Whether a server that is to keep the log is not there. One that is a little behind is: each is now and then, and one with
/// a slow disk always under load. One that was never heard by the server that leads now has no time at all.
fn is_away(server: &PeerInfo) -> bool {
    let is_unheard = server.active.is_zero() && !server.current;
    server.offline || server.active >= UNHEARD_MAX || is_unheard
}

/// What was found of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    about: &'static str,
    severity: Severity,
    text: String,
}

impl Watcher {
    /// A watcher, and what it tells.
    pub(crate) fn new(
        core: Bus,
        log: Look,
        data_dir: PathBuf,
        events_age_max: Duration,
        clock: Clock,
    ) -> (Self, Fullness) {
        let (refusing, refusals) = watch::channel(None);
        let (log_size, log_sizes) = watch::channel((0, None));
        let (relieve, reliefs) = watch::channel(0);
        let (alarms, inputs) = mpsc::channel(ALARMS_WAITING_MAX);
        let watcher = Self {
            core,
            log,
            data_dir,
            events_age_max,
            clock,
            refusing,
            log_size,
            relieve,
            alarms,
        };
        let fullness = Fullness {
            refusing: refusals,
            log: log_sizes,
            appended_bytes: 0,
            relieve: reliefs,
            alarms: inputs,
        };
        (watcher, fullness)
    }

    /// Looks again and again.
    pub(crate) async fn watch(self) {
        let (mut answered_at, mut whole_at) = (Instant::now(), Instant::now());
        loop {
            let (mut findings, extent) = self.look().await;
            if let Some(extent) = extent {
                if extent.away.is_empty() {
                    whole_at = Instant::now();
                }
                findings.push(judge_servers(&extent, whole_at.elapsed()));
            }
            // While the log gives no answer either, it is not the bucket that is away.
            let log_answers = findings.iter().any(|found| found.about == "log");
            if !log_answers || self.bucket_answers().await {
                answered_at = Instant::now();
            }
            if log_answers {
                let stream = snapshot_stream(self.core.root());
                findings.push(judge_bucket(&stream, answered_at.elapsed()));
            }
            let critical = findings.iter().find(|found| found.severity == Severity::Critical);
            self.refusing.send_replace(critical.map(|found| found.text.clone()));
            for Finding { about, severity, text } in findings {
                if self.alarms.send(Input::Alarm { about, severity, text }).await.is_err() {
                    return;
                }
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// What cannot be looked at just now stays as it was.
    async fn look(&self) -> (Vec<Finding>, Option<Extent>) {
        let (mut findings, mut extent) = (Vec::new(), None);
        let context = jetstream::new(self.core.client().clone());
        match self.log.info().await {
            Ok(Some(info)) => {
                let found = Extent::of(&info);
                let (used, limit) = (found.bytes, found.bytes_max);
                extent = Some(found);
                self.log_size.send_replace((used, limit));
                findings.push(judge_log(used, limit));
                if limit.is_some_and(|limit| percent(used, limit) >= RELIEVE_PERCENT) {
                    self.relieve.send_modify(|times| *times += 1);
                }
            }
            Ok(None) => debug!("there is no log"),
            Err(error) => debug!(%error, "the log's size is not known"),
        }
        match context.query_account().await {
            Ok(account) => {
                let limit = account.limits.max_storage.and_then(|limit| u64::try_from(limit).ok());
                findings.push(judge_account(account.storage, limit));
            }
            Err(error) => debug!(%error, "the account's use is not known"),
        }
        match self.events(&context).await {
            Ok(found) => findings.push(found),
            Err(error) => debug!(%error, "the event stream's size is not known"),
        }
        // A disk that hangs may keep the one who asks it.
        let data_dir = self.data_dir.clone();
        let asked = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&data_dir));
        match tokio::time::timeout(LOOK_INTERVAL, asked).await {
            Ok(Ok(Ok(disk))) => {
                let block = disk.f_frsize;
                let (total, free) =
                    (disk.f_blocks.saturating_mul(block), disk.f_bavail.saturating_mul(block));
                findings.push(judge_disk(free, total, &self.data_dir.display().to_string()));
            }
            _ => debug!("the disk's free space is not known"),
        }
        (findings, extent)
    }

    /// Whether the bucket of snapshots can be read. One that is missing is made by whoever needs it.
    async fn bucket_answers(&self) -> bool {
        let mut context = jetstream::new(self.core.client().clone());
        context.set_timeout(ANSWER_TIMEOUT);
        match context.get_stream(snapshot_stream(self.core.root())).await {
            Ok(_) => true,
            Err(error) if is_missing(&error.kind()) => true,
            Err(error) => {
                debug!(%error, "the bucket of snapshots cannot be read");
                false
            }
        }
    }

    async fn events(&self, context: &jetstream::Context) -> Result<Finding, String> {
        let name = event_stream(self.core.root());
        let stream = context.get_stream(&name).await.map_err(|error| error.to_string())?;
        let info = stream.cached_info();
        let limit = u64::try_from(info.config.max_bytes).ok().filter(|limit| *limit > 0);
        let is_full = limit.is_some_and(|limit| percent(info.state.bytes, limit) >= 95);
        let mut age = None;
        if is_full {
            let oldest = stream.get_raw_message(info.state.first_sequence).await;
            let oldest = oldest.map_err(|error| error.to_string())?;
            let event: Option<Event> = codec::decode(&oldest.payload).ok();
            let now_ms = self.clock.now().wall_ms;
            age = event.map(|event| Duration::from_millis(now_ms.saturating_sub(event.at_ms)));
        }
        Ok(judge_events(limit.unwrap_or_default(), age, self.events_age_max))
    }
}

impl Finding {
    fn new(about: &'static str, severity: Severity, mut text: String) -> Self {
        if severity == Severity::Critical {
            text.push_str(
                ". New commands are refused, so that what is left lasts for what keeps tasks and nodes going",
            );
        }
        Self { about, severity, text }
    }
}

fn percent(used: u64, limit: u64) -> u64 {
    (u128::from(used) * 100 / u128::from(limit.max(1))).try_into().unwrap_or(u64::MAX)
}

fn judge(used: u64, limit: u64) -> Severity {
    let percent = percent(used, limit);
    let level = LEVELS.iter().find(|(from, _)| percent >= *from);
    level.map_or(Severity::Over, |(_, severity)| *severity)
}

fn filled(what: &str, used: u64, limit: u64) -> String {
    let percent = percent(used, limit);
    let how = if percent >= 100 { "full".to_owned() } else { format!("{percent} % full") };
    format!("{what} is {how} ({} of {})", format_bytes(used), format_bytes(limit))
}

fn judge_log(used: u64, limit: Option<u64>) -> Finding {
    let about = "log";
    let Some(limit) = limit else {
        return Finding::new(about, Severity::Over, "the log has no limit of its own".to_owned());
    };
    let severity = judge(used, limit);
    let mut text = filled("the log", used, limit);
    if severity > Severity::Over {
        text.push_str(
            ": it is trimmed behind each snapshot, so see in this manager's log why none is stored, or raise --log-size",
        );
    }
    Finding::new(about, severity, text)
}

fn judge_account(used: u64, limit: Option<u64>) -> Finding {
    let about = "account";
    let Some(limit) = limit.filter(|limit| *limit > 0) else {
        let text = "the managers' NATS account has no limit of storage".to_owned();
        return Finding::new(about, Severity::Over, text);
    };
    let severity = judge(used, limit);
    let mut text = filled("the storage of the managers' NATS account", used, limit);
    if severity > Severity::Over {
        text.push_str(": raise the account's limit, or lower --events-size");
    }
    Finding::new(about, severity, text)
}

/// `age` is that of the oldest event of a stream that is full.
fn judge_events(limit: u64, age: Option<Duration>, age_max: Duration) -> Finding {
    let about = "events";
    match age {
        Some(age) if age < age_max => Finding {
            about,
            severity: Severity::Warning,
            text: format!(
                "the event stream is full ({}) and holds the last {} instead of {}: readers that were away for longer miss events; raise --events-size",
                format_bytes(limit),
                rough(age),
                rough(age_max),
            ),
        },
        _ => {
            let text = "the event stream holds what it should".to_owned();
            Finding::new(about, Severity::Over, text)
        }
    }
}

/// `broken` is for how long not all of the servers have been there.
fn judge_servers(extent: &Extent, broken: Duration) -> Finding {
    let about = "servers";
    let Extent { servers, away, .. } = extent;
    if away.is_empty() || broken < SILENT_MAX {
        let text = "all NATS servers that keep the log are there".to_owned();
        return Finding::new(about, Severity::Over, text);
    }
    let majority = servers / 2 + 1;
    let spare = servers.saturating_sub(away.len()).saturating_sub(majority);
    let may_go = match spare {
        0 => "if one more goes, nothing can be written any more".to_owned(),
        spare => format!("{spare} more may go before nothing can be written any more"),
    };
    let text = format!(
        "{} of the {servers} NATS servers that keep the log {} away ({}): nothing is lost and all goes on, but {may_go}. Start it \
         again, or mend its network",
        away.len(),
        if away.len() == 1 { "is" } else { "are" },
        away.join(", ")
    );
    Finding::new(about, Severity::Warning, text)
}

fn judge_bucket(stream: &str, silent: Duration) -> Finding {
    let about = "snapshots";
    if silent < SILENT_MAX {
        let text = "the bucket of snapshots answers".to_owned();
        return Finding::new(about, Severity::Over, text);
    }
    let text = format!(
        "the bucket of snapshots has not answered for {}: until it does, no snapshot is stored and the log grows, no manager \
         joins from one, and whoever leads next waits for it first and then does not know whether the log has lost what a \
         snapshot holds. See that a majority of the NATS servers that hold the stream {stream} is up (`nats stream info \
         {stream}`), and that managers may read it",
        rough(silent)
    );
    Finding::new(about, Severity::Alarm, text)
}

fn judge_disk(free: u64, total: u64, at: &str) -> Finding {
    let left = percent(free, total);
    let level = FREE.iter().find(|(bytes, percent, _)| free < *bytes && left < *percent);
    let severity = if free < FREE_BYTES_MIN && left < FREE_PERCENT_MIN {
        Severity::Critical
    } else {
        level.map_or(Severity::Over, |(_, _, severity)| *severity)
    };
    let mut text = format!(
        "the disk of this manager's data directory {at} has {} of {} free",
        format_bytes(free),
        format_bytes(total)
    );
    if severity > Severity::Over {
        text.push_str(": make room, or lower --history-size");
    }
    Finding::new("disk", severity, text)
}

/// A duration for people, in its largest unit.
fn rough(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(86_400, "days"), (3_600, "hours"), (60, "minutes")];
    let unit = units.iter().find(|(length, _)| seconds >= 2 * length);
    unit.map_or_else(
        || format!("{seconds} seconds"),
        |(length, name)| format!("{} {name}", seconds / length),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    #[test]
    fn what_fills_is_told_at_70_85_and_95_percent_and_never_where_there_is_no_limit() {
        for (used, severity) in [
            (0, Severity::Over),
            (69, Severity::Over),
            (70, Severity::Warning),
            (84, Severity::Warning),
            (85, Severity::Alarm),
            (94, Severity::Alarm),
            (95, Severity::Critical),
            (250, Severity::Critical),
        ] {
            for found in
                [judge_log(used * MIB, Some(100 * MIB)), judge_account(used * MIB, Some(100 * MIB))]
            {
                assert_eq!(found.severity, severity, "{found:?}");
                let says_what_to_do = found.text.contains("raise");
                assert_eq!(says_what_to_do, severity > Severity::Over, "{found:?}");
            }
        }
        let found = judge_log(86 * MIB, Some(100 * MIB));
        assert!(found.text.starts_with("the log is 86 % full (86MiB of 100MiB): "), "{found:?}");
        assert_eq!(judge_log(u64::MAX, None).severity, Severity::Over);
        assert_eq!(judge_account(u64::MAX, None).severity, Severity::Over);
    }

    #[test]
    fn an_event_stream_is_told_of_only_where_it_forgets_too_early() {
        let (hour, month) = (Duration::from_secs(3_600), Duration::from_secs(30 * 86_400));
        let found = judge_events(GIB, Some(5 * hour), month);
        assert_eq!(found.severity, Severity::Warning);
        assert!(found.text.contains("the last 5 hours instead of 30 days"), "{found:?}");
        assert_eq!(judge_events(GIB, Some(month), month).severity, Severity::Over);
        assert_eq!(judge_events(GIB, None, month).severity, Severity::Over);
    }

    #[test]
    fn a_bucket_of_snapshots_that_does_not_answer_is_told_of_with_what_that_means() {
        let judge = |seconds| judge_bucket("OBJ_here-snapshot", Duration::from_secs(seconds));
        assert_eq!(judge(14).severity, Severity::Over);
        let found = judge(150);
        assert_eq!(found.severity, Severity::Alarm);
        assert!(found.text.contains("not answered for 2 minutes"), "{found:?}");
        assert!(found.text.contains("`nats stream info OBJ_here-snapshot`"), "{found:?}");
    }

    #[test]
    fn a_server_is_away_when_it_is_not_heard_and_not_when_it_is_behind() {
        let server = |current, seconds, offline| PeerInfo {
            name: "n2".to_owned(),
            current,
            active: Duration::from_secs(seconds),
            offline,
            lag: None,
        };
        assert!(!is_away(&server(true, 1, false)) && !is_away(&server(false, 1, false)));
        assert!(!is_away(&server(true, 0, false)), "heard this very moment");
        assert!(is_away(&server(false, 0, false)), "never heard");
        assert!(is_away(&server(true, 10, false)) && is_away(&server(true, 1, true)));
    }

    #[test]
    fn a_server_that_stays_away_is_told_of_with_how_many_more_may_go() {
        let judge = |servers, away: &[&str], seconds| {
            let away = away.iter().map(|name| (*name).to_owned()).collect();
            let extent = Extent { bytes: 0, bytes_max: None, servers, away };
            judge_servers(&extent, Duration::from_secs(seconds))
        };
        assert_eq!(judge(1, &[], 0).severity, Severity::Over);
        assert_eq!(judge(3, &["n2"], 14).severity, Severity::Over, "it may only begin anew");
        let found = judge(3, &["n2"], 15);
        assert_eq!(found.severity, Severity::Warning);
        assert!(found.text.starts_with("1 of the 3 NATS servers that keep the log is away (n2): "));
        assert!(found.text.contains("if one more goes, nothing can be written"), "{found:?}");
        assert!(judge(5, &["n2"], 15).text.contains("but 1 more may go"), "{found:?}");
        let found = judge(5, &["n2", "n4"], 15).text;
        assert!(found.starts_with("2 of the 5 NATS servers that keep the log are away (n2, n4)"));
        assert!(found.contains("if one more goes"), "{found}");
    }

    #[test]
    fn a_disk_is_judged_by_what_is_free() {
        let judge = |free, total| judge_disk(free, total, "/d").severity;
        assert_eq!(judge(900 * GIB, 10_000 * GIB), Severity::Over, "a large one may be used");
        assert_eq!(judge(30 * GIB, 1_000 * GIB), Severity::Over);
        assert_eq!(judge(19 * GIB, 200 * GIB), Severity::Warning);
        assert_eq!(judge(4 * GIB, 200 * GIB), Severity::Alarm);
        assert_eq!(judge(4 * GIB, 10 * GIB), Severity::Over, "a small one may be small");
        assert_eq!(judge(255 * MIB, 4 * GIB), Severity::Critical);
        assert_eq!(judge(100 * MIB, GIB), Severity::Critical);
        assert_eq!(judge(180 * MIB, 200 * MIB), Severity::Over, "one smaller than the reserve");
        assert_eq!(judge(15 * MIB, 200 * MIB), Severity::Critical);
    }
}
