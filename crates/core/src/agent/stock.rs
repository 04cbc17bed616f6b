//! What was brought onto the machine for tasks, images and volumes, and when it goes again.
//!
//! | what | goes when no task needs it and |
//! |---|---|
//! | an image that this worker pulled, and that was not here before; also without its tag, when that has moved on | it was not needed for the time that the operator says, or the disk is too full: the least recently needed first |
//! | a volume that was made for tasks of this cluster and node | it was not needed for the time that the operator says, if one is said: it holds data |
//! | ended containers, once no image is left to go | the disk is too full: the older half each time |
//!
//! Whether it goes is looked at once a minute (more often where something is kept for less), and under pressure after each removal anew. While something is being
//! removed no task that needs it starts, so that what was just looked for is still here when its container is made. What a
//! fetch is about stays until that is over: an image whose tag moves by it still has its name, and would be taken for somebody
//! else's. A volume stays until this run has heard which tasks there are: it may have been away for longer than volumes are kept. The
//! runtime has the last word: it removes nothing that any container uses.

use std::collections::{BTreeMap, BTreeSet};

use longshore_proto::quantity::format_duration;
use longshore_proto::spec::{MountSource, TaskSpec};
use serde::{Deserialize, Serialize};

use super::Agent;
use super::input::Failure;
use super::record::StockRecord;
use super::settings::Keeping;
use super::step::{Action, Write};
use super::task::Phase;

/// How often it is looked at what may go, at the least, in milliseconds.
pub(super) const ROUND_MS: u64 = 60_000;
/// How often it is looked at, at the most, in milliseconds.
const ROUND_MS_MIN: u64 = 1_000;
/// For how many rounds something is left alone that the runtime did not give up: often the container that uses it is
/// an ended one of ours, and on its way out.
const REFUSED_ROUNDS: u64 = 5;
/// How exactly the store knows when something was needed last, should the worker crash, in milliseconds.
const STORED_STEP_MS: u64 = 3_600_000;

/// Something that was brought onto the machine for tasks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StockItem {
    /// An image, by its reference with a tag or a digest, or by its id.
    Image(String),
    /// A volume, by its name.
    Volume(String),
}

impl StockItem {
    /// An image by any reference to it: `busybox` and `docker.io/library/busybox:latest` are one.
    pub(super) fn image(reference: &str) -> Self {
        let short = reference.strip_prefix("docker.io/").unwrap_or(reference);
        let short = short.strip_prefix("library/").unwrap_or(short);
        let last = short.rsplit('/').next().unwrap_or(short);
        let is_exact = last.contains([':', '@']);
        Self::Image(if is_exact { short.to_owned() } else { format!("{short}:latest") })
    }
}

impl std::fmt::Display for StockItem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Image(reference) => write!(f, "image {reference}"),
            Self::Volume(name) => write!(f, "volume {name}"),
        }
    }
}

/// When something was needed last.
#[derive(Debug, Clone, Copy)]
struct Use {
    /// In milliseconds since the Unix epoch: it must outlive the process.
    used_at_ms: u64,
    /// The same, as the store has it.
    stored_at_ms: u64,
    /// Until when it is left alone, in monotonic milliseconds.
    rest_until_ms: u64,
    /// Whether this run of the worker has seen a fetch bring it. What the store knows may be of a fetch that never ended.
    has_come: bool,
}

/// Everything that was brought.
#[derive(Debug, Clone)]
pub(super) struct Stock {
    items: BTreeMap<StockItem, Use>,
    /// What is being removed just now: one thing at a time, because it is disk work beside tasks that run.
    under_way: Option<StockItem>,
    round_ms: u64,
    round_at_ms: u64,
    used_percent: u8,
}

impl Stock {
    pub(super) fn restore(records: Vec<StockRecord>, keeping: &Keeping, now_ms: u64) -> Self {
        let known = |record: StockRecord| {
            let StockRecord { item, used_at_ms } = record;
            let (rest_until_ms, has_come) = (0, false);
            (item, Use { used_at_ms, stored_at_ms: used_at_ms, rest_until_ms, has_come })
        };
        let keep_ms = [keeping.images_ms, keeping.volumes_ms, Some(keeping.ended_ms)];
        let round_ms = keep_ms.into_iter().flatten().fold(ROUND_MS, u64::min).max(ROUND_MS_MIN);
        Self {
            items: records.into_iter().map(known).collect(),
            under_way: None,
            round_ms,
            round_at_ms: now_ms.saturating_add(round_ms),
            used_percent: 0,
        }
    }

    /// Something was brought onto the machine, or is known to be needed.
    pub(super) fn brought(&mut self, item: StockItem, wall_ms: u64, writes: &mut Vec<Write>) {
        let has_come = self.has_come(&item);
        let fresh = Use { used_at_ms: wall_ms, stored_at_ms: wall_ms, rest_until_ms: 0, has_come };
        if self.items.insert(item.clone(), fresh).is_none_or(|known| known.stored_at_ms != wall_ms)
        {
            writes.push(Write::Stock(StockRecord { item, used_at_ms: wall_ms }));
        }
    }

    /// Whether it is known to have been brought here for tasks.
    pub(super) fn has(&self, item: &StockItem) -> bool {
        self.items.contains_key(item)
    }

    /// Whether this run of the worker has seen a fetch bring it.
    pub(super) fn has_come(&self, item: &StockItem) -> bool {
        self.items.get(item).is_some_and(|known| known.has_come)
    }

    /// A fetch has brought it.
    pub(super) fn came(&mut self, item: &StockItem) {
        if let Some(known) = self.items.get_mut(item) {
            known.has_come = true;
        }
    }

    /// It is not here after all.
    pub(super) fn forget(&mut self, item: &StockItem, writes: &mut Vec<Write>) {
        if self.items.remove(item).is_some() {
            writes.push(Write::StockDropped(item.clone()));
        }
    }

    /// Notes that a volume is there for tasks, unless that is known.
    pub(super) fn volumes_of(&mut self, spec: &TaskSpec, wall_ms: u64, writes: &mut Vec<Write>) {
        for item in volumes(spec) {
            if !self.has(&item) {
                self.brought(item, wall_ms, writes);
            }
        }
    }

    /// Whether something that a task needs is being removed just now.
    pub(super) fn is_leaving_from(&self, spec: &TaskSpec) -> bool {
        self.under_way.as_ref().is_some_and(|leaving| needs(spec).any(|item| item == *leaving))
    }

    /// The look at the disk that is due now.
    pub(super) fn poll(&mut self, now_ms: u64) -> Option<Action> {
        (self.round_at_ms <= now_ms).then(|| {
            self.round_at_ms = now_ms.saturating_add(self.round_ms);
            Action::MeasureDisk
        })
    }

    pub(super) fn wakeup(&self) -> u64 {
        self.round_at_ms
    }

    /// What is needed is used now. Says so to the store when it has not heard of it for long, and when it is needed
    /// no more.
    fn touch(&mut self, needed: &BTreeSet<StockItem>, wall_ms: u64, writes: &mut Vec<Write>) {
        for (item, used) in &mut self.items {
            let is_needed = needed.contains(item);
            if is_needed {
                used.used_at_ms = wall_ms;
            }
            let age_ms = used.used_at_ms.abs_diff(used.stored_at_ms);
            if age_ms >= STORED_STEP_MS || !is_needed && age_ms > 0 {
                used.stored_at_ms = used.used_at_ms;
                writes.push(Write::Stock(StockRecord {
                    item: item.clone(),
                    used_at_ms: used.used_at_ms,
                }));
            }
        }
    }

    /// What goes next, and why.
    fn next(
        &self,
        needed: &BTreeSet<StockItem>,
        keeping: &Keeping,
        knows_tasks: bool,
        (now_ms, wall_ms): (u64, u64),
    ) -> Option<(StockItem, String)> {
        let unneeded = self
            .items
            .iter()
            .filter(|(item, used)| !needed.contains(item) && used.rest_until_ms <= now_ms);
        let (item, used) = unneeded
            .filter_map(|(item, used)| {
                let age_ms = wall_ms.saturating_sub(used.used_at_ms);
                let (keep_ms, is_pressed) = match item {
                    StockItem::Image(_) => (keeping.images_ms, self.is_pressed(keeping)),
                    StockItem::Volume(_) => (keeping.volumes_ms.filter(|_| knows_tasks), false),
                };
                (is_pressed || keep_ms.is_some_and(|keep_ms| age_ms >= keep_ms))
                    .then_some((item, used))
            })
            .min_by_key(|(_, used)| used.used_at_ms)?;
        let mut why =
            format!("not needed for {}", format_duration(wall_ms.saturating_sub(used.used_at_ms)));
        if self.is_pressed(keeping) {
            why.push_str(&format!(", and the disk is {} % full", self.used_percent));
        }
        Some((item.clone(), why))
    }

    fn is_pressed(&self, keeping: &Keeping) -> bool {
        self.used_percent >= keeping.disk_percent_max
    }
}

impl Agent {
    /// The disk was measured: takes away what nobody needs.
    pub(super) fn disk_measured(&mut self, used_percent: u8) {
        let ctx = &mut self.ctx;
        let moment = (ctx.now_ms, ctx.wall_ms);
        let specs = self.tasks.values().filter(|task| task.phase != Phase::Ended);
        let needed: BTreeSet<StockItem> = specs
            .filter_map(|task| task.record().run.as_deref())
            .flat_map(|run| needs(&run.spec))
            .chain(ctx.errands.images().cloned())
            .collect();
        ctx.stock.used_percent = used_percent;
        ctx.stock.touch(&needed, ctx.wall_ms, &mut ctx.writes);
        ctx.shelf.expire(moment, &mut ctx.writes);
        if ctx.stock.under_way.is_some() || !ctx.runtime.is_ready() {
            return;
        }
        match ctx.stock.next(&needed, &ctx.keeping, ctx.synced, moment) {
            Some((item, why)) => {
                ctx.stock.under_way = Some(item.clone());
                ctx.actions.push(Action::RemoveStock { item, why });
            }
            None if ctx.stock.is_pressed(&ctx.keeping) => {
                ctx.shelf.give_up_older_half(ctx.now_ms, &mut ctx.writes);
            }
            None => {}
        }
    }

    /// Something was taken away, or stays.
    pub(super) fn stock_removed(&mut self, item: &StockItem, result: &Result<(), Failure>) {
        let ctx = &mut self.ctx;
        if ctx.stock.under_way.as_ref() != Some(item) {
            return;
        }
        ctx.stock.under_way = None;
        match result {
            // What is not ours after all is not thought of again.
            Ok(()) | Err(Failure::Forbidden(_)) => {
                ctx.stock.forget(item, &mut ctx.writes);
            }
            Err(Failure::Refused(_)) => {
                if let Some(used) = ctx.stock.items.get_mut(item) {
                    let rest_ms = ctx.stock.round_ms.saturating_mul(REFUSED_ROUNDS);
                    used.rest_until_ms = ctx.now_ms.saturating_add(rest_ms);
                }
            }
            // The next round is soon enough.
            Err(Failure::RuntimeAway) => return,
        }
        ctx.actions.push(Action::MeasureDisk);
    }
}

/// What a task needs.
fn needs(spec: &TaskSpec) -> impl Iterator<Item = StockItem> {
    volumes(spec).chain([StockItem::image(&spec.image)])
}

/// The volumes that a task mounts.
fn volumes(spec: &TaskSpec) -> impl Iterator<Item = StockItem> {
    spec.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Volume { name } => Some(StockItem::Volume(name.clone())),
        MountSource::Bind { .. } | MountSource::Tmpfs { .. } => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_image_has_many_names() {
        let image = |reference: &str| StockItem::image(reference).to_string();
        for same in
            ["busybox", "busybox:latest", "library/busybox", "docker.io/library/busybox:latest"]
        {
            assert_eq!(image(same), "image busybox:latest");
        }
        for exact in ["busybox:1", "reg:5000/a/b:2", "busybox@sha256:abc"] {
            assert_eq!(image(exact), format!("image {exact}"));
        }
        assert_eq!(image("reg:5000/busybox"), "image reg:5000/busybox:latest");
    }
}
