//! Small texts in options and job files: variables, ports, mounts, policies, preferences, labels, capacities.

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use longshore_proto::constraint::{Attribute, ConstraintError};
use longshore_proto::container::{Device, Gpus, Ulimit};
use longshore_proto::name::{JobName, SpecName};
use longshore_proto::quantity::{self, QuantityError};
use longshore_proto::spec::{
    Affinity, Mount, MountSource, Port, Protocol, Resources, RestartMode, RestartPolicy, Spread,
};
use longshore_worker::CapacityOverride;

/// Why a text cannot be read. Says what is wrong, and the cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseError {
    /// Not an environment variable.
    #[error("{0:?} is no variable; write NAME=VALUE, or NAME to take it from this environment")]
    Variable(String),
    /// Neither a job nor a part of one.
    #[error("{0:?} names no job; write NAME, or NAME.PART for one of its parts, such as shop.web")]
    PartOfJob(String),
    /// Not a port to publish.
    #[error(
        "{0:?} is no port to publish; write [NAME=][[IP:]HOST:]CONTAINER[/tcp|/udp] with ports 1 to 65535, such as \
         8080:80, or web=80 to let the node choose"
    )]
    Publish(String),
    /// Not a mount.
    #[error(
        "{0:?} is no mount; write SOURCE:TARGET[:ro], such as /srv/data:/data:ro (a path of the node) or cache:/data \
         (a volume), with a target from / on"
    )]
    Mount(String),
    /// Not an affinity.
    #[error(
        "{0:?} is no affinity; write CONSTRAINT@WEIGHT with a weight of 1 to 100 to seek such nodes or -1 to -100 to \
         avoid them, such as 'label.disk = ssd@50'"
    )]
    Affinity(String),
    /// Not what tasks are spread over.
    #[error(
        "{0:?} is nothing to spread over; write ATTRIBUTE[:WEIGHT] with a weight of 1 to 100, such as label.rack or \
         label.rack:30"
    )]
    Spread(String),
    /// A constraint within it cannot be read.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// Not a path of a node.
    #[error("{0:?} is no path to lend; write an absolute one without '..', such as /srv/data")]
    Lent(String),
    /// Not a name with its address.
    #[error("{0:?} is no name with its address; write NAME:IP, such as db:10.0.0.1")]
    Host(String),
    /// Not a limit of processes.
    #[error(
        "{0:?} is no limit; write NAME=SOFT or NAME=SOFT:HARD, such as nofile=1024:4096, -1 for none"
    )]
    Ulimit(String),
    /// Not a capability.
    #[error("{0:?} is no capability; write it as NET_ADMIN")]
    Capability(String),
    /// Not a device.
    #[error("{0:?} is no device; write PATH[:PATH][:rwm], such as /dev/kvm")]
    Device(String),
    /// Not a number of graphics processors.
    #[error("{0:?} is no number of graphics processors; write all, or a number from 1")]
    Gpus(String),
    /// Not a range of ports.
    #[error("{0:?} is no range of ports; write FIRST-LAST within 1 to 65535, such as 20000-32000")]
    Ports(String),
    /// Not a restart policy.
    #[error("{0:?} is no restart policy; write never, on-failure, on-failure:5 or always")]
    Restart(String),
    /// Not a label.
    #[error("{0:?} is no label; write NAME=VALUE")]
    Label(String),
    /// Not a number of instances.
    #[error("{0:?} is no number of instances; use 1 to 100000")]
    Instances(String),
    /// Not a time.
    #[error(
        "{0:?} is no time; write how long ago (10m, 2h), or a time such as 2026-01-31T12:00:00Z"
    )]
    Time(String),
    /// Not a moment.
    #[error(
        "{0:?} is no moment; write an index of the log (4711), how long ago (10m, 2h), or a time such as \
         2026-01-31T12:00:00Z"
    )]
    Moment(String),
    /// A moment that has not come.
    #[error("{0} is yet to come; write a time that is past")]
    Future(String),
    /// Not a capacity.
    #[error("{0:?} is no capacity; write cpu=4,memory=8GiB,disk=100GiB or a part of it")]
    Capacity(String),
    /// Not a number of machines and their shape.
    #[error(
        "{0:?} is no number of machines; write 3xcpu=16,memory=64GiB,disk=1TiB, with at least cpu and memory"
    )]
    Machines(String),
    /// Not a factor.
    #[error("{0:?} is no factor; write 1 or more: 2 asks that it costs half elsewhere")]
    Gain(String),
    /// Not a gap between priorities.
    #[error("{0:?} is no gap between priorities; write 1 to 99, or off")]
    Gap(String),
    /// Neither a time nor `off`.
    #[error("{0:?} is no time; write 12h or 7d, or off")]
    TimeOrOff(String),
    /// A capacity's part is said twice.
    #[error("{0} is said twice; say it once")]
    Twice(&'static str),
    /// A quantity within it cannot be read.
    #[error(transparent)]
    Quantity(#[from] QuantityError),
}

/// A moment of the cluster's past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Moment {
    /// After the record of this index.
    Index(u64),
    /// At a time, in milliseconds since the Unix epoch.
    Time(u64),
}

impl fmt::Display for Moment {
    /// As questions carry it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "{index}"),
            Self::Time(at_ms) => write!(f, "@{at_ms}"),
        }
    }
}

/// How much later than ours the clock of a manager may be, whose times people repeat to us.
const CLOCKS_APART_MS_MAX: u64 = 5 * 60 * 1_000;

/// Reads a moment.
pub(crate) fn moment(text: &str) -> Result<Moment, ParseError> {
    if let Ok(index) = text.parse() {
        return Ok(Moment::Index(index));
    }
    let at_ms = time(text).map_err(|_| ParseError::Moment(text.to_owned()))?;
    if at_ms > crate::table::now_ms().saturating_add(CLOCKS_APART_MS_MAX) {
        return Err(ParseError::Future(text.to_owned()));
    }
    Ok(Moment::Time(at_ms))
}

/// Reads a time as milliseconds since the Unix epoch.
pub(crate) fn time(text: &str) -> Result<u64, ParseError> {
    let timestamp: Result<jiff::Timestamp, _> = text.parse();
    let at_ms = match timestamp {
        Ok(timestamp) => u64::try_from(timestamp.as_millisecond()).ok(),
        Err(_) => quantity::parse_duration(text)
            .ok()
            .and_then(|ago| u64::try_from(ago.as_millis()).ok())
            .map(|ago_ms| crate::table::now_ms().saturating_sub(ago_ms)),
    };
    at_ms.ok_or_else(|| ParseError::Time(text.to_owned()))
}

/// An environment variable of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Variable {
    /// Its name.
    pub(crate) name: String,
    /// Its value; absent means the one in this program's environment.
    pub(crate) value: Option<String>,
}

/// Reads `NAME=VALUE` or `NAME`.
pub(crate) fn variable(text: &str) -> Result<Variable, ParseError> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    if name.is_empty() || text.contains('\0') {
        return Err(ParseError::Variable(text.to_owned()));
    }
    Ok(Variable { name: name.to_owned(), value })
}

/// Reads `[NAME=][[IP:]HOST:]CONTAINER[/tcp|/udp]`; an IPv6 address stands in brackets. Without a port of the node
/// its worker chooses one.
pub(crate) fn publish(text: &str) -> Result<Port, ParseError> {
    let refuse = || ParseError::Publish(text.to_owned());
    let (name, numbers) = match text.split_once('=') {
        Some((name, numbers)) => (Some(name.to_owned()), numbers),
        None => (None, text),
    };
    let (addresses, protocol) = match numbers.rsplit_once('/') {
        None => (numbers, Protocol::Tcp),
        Some((addresses, "tcp")) => (addresses, Protocol::Tcp),
        Some((addresses, "udp")) => (addresses, Protocol::Udp),
        Some(_) => return Err(refuse()),
    };
    let (rest, container) = match addresses.rsplit_once(':') {
        Some((rest, container)) => (Some(rest), container),
        None => (None, addresses),
    };
    let (host_ip, host) = match rest.map(|rest| (rest, rest.rsplit_once(':'))) {
        None => (None, None),
        Some((host, None)) => (None, Some(host)),
        Some((_, Some((ip, host)))) => {
            let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
            // As Docker has it: an address and no port leave the port open.
            (Some(bare.parse().map_err(|_| refuse())?), Some(host).filter(|host| !host.is_empty()))
        }
    };
    let port = |digits: &str| match digits.parse::<u16>() {
        Ok(port) if port > 0 && !digits.starts_with('+') => Ok(port),
        _ => Err(refuse()),
    };
    let host = host.map_or(Ok(Port::DYNAMIC), port)?;
    Ok(Port { host, container: port(container)?, protocol, host_ip, name })
}

/// Reads `FIRST-LAST`.
pub(crate) fn port_range(text: &str) -> Result<RangeInclusive<u16>, ParseError> {
    let refuse = || ParseError::Ports(text.to_owned());
    let (first, last) = text.split_once('-').ok_or_else(refuse)?;
    let port = |digits: &str| digits.trim().parse::<u16>().map_err(|_| refuse());
    let (first, last) = (port(first)?, port(last)?);
    if first == 0 || first > last {
        return Err(refuse());
    }
    Ok(first..=last)
}

/// Reads `NAME:IP`.
pub(crate) fn host(text: &str) -> Result<(String, IpAddr), ParseError> {
    let refuse = || ParseError::Host(text.to_owned());
    let (name, ip) = text.split_once(':').ok_or_else(refuse)?;
    Ok((name.to_owned(), ip.parse().map_err(|_| refuse())?))
}

/// Reads `NAME=SOFT[:HARD]`.
pub(crate) fn ulimit(text: &str) -> Result<(String, Ulimit), ParseError> {
    let refuse = || ParseError::Ulimit(text.to_owned());
    let (name, limits) = text.split_once('=').ok_or_else(refuse)?;
    let limit = limits_of(limits).ok_or_else(refuse)?;
    Ok((name.to_owned(), limit))
}

/// Reads `SOFT[:HARD]`.
pub(crate) fn limits_of(text: &str) -> Option<Ulimit> {
    let (soft, hard) = text.split_once(':').unwrap_or((text, text));
    Some(Ulimit { soft: soft.trim().parse().ok()?, hard: hard.trim().parse().ok()? })
}

/// Reads the name of a capability, with or without `CAP_`, in any case.
pub(crate) fn capability(text: &str) -> Result<String, ParseError> {
    let upper = text.trim().to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
        return Err(ParseError::Capability(text.to_owned()));
    }
    Ok(name.to_owned())
}

/// Reads `PATH[:PATH][:rwm]`.
pub(crate) fn device(text: &str) -> Result<Device, ParseError> {
    let refuse = || ParseError::Device(text.to_owned());
    let (mut container, mut permissions) = (None, Device::usual_permissions());
    let mut parts = text.split(':');
    let host = parts.next().filter(|host| host.starts_with('/')).ok_or_else(refuse)?;
    let rest: Vec<&str> = parts.collect();
    let odd = match rest.as_slice() {
        [] => false,
        [one] | [one, _] if one.starts_with('/') => {
            container = Some((*one).to_owned());
            rest.get(1).is_some_and(|mode| {
                permissions = (*mode).to_owned();
                mode.starts_with('/')
            })
        }
        [mode] => {
            permissions = (*mode).to_owned();
            false
        }
        _ => true,
    };
    if odd || permissions.is_empty() || !permissions.chars().all(|c| "rwm".contains(c)) {
        return Err(refuse());
    }
    Ok(Device { host: host.to_owned(), container, permissions })
}

/// Reads `all` or a number from 1.
pub(crate) fn gpus(text: &str) -> Result<Gpus, ParseError> {
    match text {
        "all" => Ok(Gpus::All),
        _ => match text.parse() {
            Ok(count) if count > 0 => Ok(Gpus::Count(count)),
            _ => Err(ParseError::Gpus(text.to_owned())),
        },
    }
}

/// Reads `SOURCE:TARGET[:ro|:rw]`: a source that begins with `/` is a path of the node, any other a volume.
pub(crate) fn mount(text: &str) -> Result<Mount, ParseError> {
    let refuse = || ParseError::Mount(text.to_owned());
    let mut parts = text.split(':');
    let (Some(source), Some(target), mode, None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(refuse());
    };
    let read_only = match mode {
        None | Some("rw") => false,
        Some("ro") => true,
        Some(_) => return Err(refuse()),
    };
    // Whether the names are good ones, the rules for jobs tell; what is neither path nor volume is told here.
    if source.is_empty() || source.starts_with(['.', '~']) || !target.starts_with('/') {
        return Err(refuse());
    }
    let source = if source.starts_with('/') {
        MountSource::Bind { path: source.to_owned() }
    } else {
        MountSource::Volume { name: source.to_owned() }
    };
    Ok(Mount { target: target.to_owned(), source, read_only })
}

/// Reads `CONSTRAINT@WEIGHT`. The weight must be there: a value may have an `@` of its own.
pub(crate) fn affinity(text: &str) -> Result<Affinity, ParseError> {
    let refuse = || ParseError::Affinity(text.to_owned());
    let (constraint, weight) = text.rsplit_once('@').ok_or_else(refuse)?;
    let weight = affinity_weight(weight.trim()).ok_or_else(refuse)?;
    Ok(Affinity { constraint: constraint.parse()?, weight })
}

/// Reads the weight of an affinity.
pub(crate) fn affinity_weight(text: &str) -> Option<i8> {
    text.parse().ok().filter(|weight| (-100..=100).contains(weight) && *weight != 0)
}

/// Reads `ATTRIBUTE[:WEIGHT]`.
pub(crate) fn spread(text: &str) -> Result<Spread, ParseError> {
    let (attribute, weight) = match text.rsplit_once(':') {
        None => (text, None),
        Some((attribute, weight)) => {
            let weight = spread_weight(weight.trim());
            (attribute, Some(weight.ok_or_else(|| ParseError::Spread(text.to_owned()))?))
        }
    };
    let usual = Spread::usual(attribute.trim().parse::<Attribute>()?);
    Ok(Spread { weight: weight.unwrap_or(usual.weight), ..usual })
}

/// Reads the weight of a spread.
pub(crate) fn spread_weight(text: &str) -> Option<u8> {
    text.parse().ok().filter(|weight| (1..=100).contains(weight))
}

/// Reads a path of this machine that tasks may mount.
pub(crate) fn lent_path(text: &str) -> Result<String, ParseError> {
    let is_odd = text.split('/').any(|part| part == "..") || text.contains(char::is_control);
    if !text.starts_with('/') || is_odd {
        return Err(ParseError::Lent(text.to_owned()));
    }
    Ok(text.to_owned())
}

/// Reads `never`, `on-failure`, `on-failure:N` or `always`.
pub(crate) fn restart(text: &str) -> Result<RestartPolicy, ParseError> {
    let refuse = || ParseError::Restart(text.to_owned());
    match text.split_once(':') {
        None => match text {
            "never" => Ok(RestartPolicy::usual(RestartMode::Never)),
            "on-failure" => Ok(RestartPolicy::usual(RestartMode::OnFailure)),
            "always" => Ok(RestartPolicy::usual(RestartMode::Always)),
            _ => Err(refuse()),
        },
        Some(("on-failure", attempts)) => {
            let attempts = attempts.parse().map_err(|_| refuse())?;
            Ok(RestartPolicy { attempts, ..RestartPolicy::usual(RestartMode::OnFailure) })
        }
        Some(_) => Err(refuse()),
    }
}

/// Reads a number of instances; whether it is small enough, the rules for jobs tell.
pub(crate) fn instances(text: &str) -> Result<u32, ParseError> {
    text.parse().map_err(|_| ParseError::Instances(text.to_owned()))
}

/// A job, or one of its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartOfJob {
    /// The job.
    pub(crate) job: JobName,
    /// The part.
    pub(crate) part: Option<SpecName>,
}

impl fmt::Display for PartOfJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.job)?;
        self.part.iter().try_for_each(|part| write!(f, ".{part}"))
    }
}

/// Reads `NAME` or `NAME.PART`.
pub(crate) fn part_of_job(text: &str) -> Result<PartOfJob, ParseError> {
    let (job, part) = match text.split_once('.') {
        Some((job, part)) => (job, Some(part)),
        None => (text, None),
    };
    let wrong = || ParseError::PartOfJob(text.to_owned());
    let part = part.map(|part| part.parse().map_err(|_| wrong())).transpose()?;
    Ok(PartOfJob { job: job.parse().map_err(|_| wrong())?, part })
}

/// What an operator says of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Label {
    /// What is said.
    pub(crate) name: String,
    /// Its value.
    pub(crate) value: String,
}

/// Reads `NAME=VALUE`.
pub(crate) fn label(text: &str) -> Result<Label, ParseError> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            Ok(Label { name: name.to_owned(), value: value.to_owned() })
        }
        _ => Err(ParseError::Label(text.to_owned())),
    }
}

/// What an operator says of a node from now on, or no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LabelChange {
    /// It is said.
    Set(Label),
    /// It is no longer said.
    Remove(String),
}

/// Reads `NAME=VALUE` or `NAME-`.
pub(crate) fn label_change(text: &str) -> Result<LabelChange, ParseError> {
    match text.strip_suffix('-') {
        Some(name) if !text.contains('=') && !name.is_empty() => {
            Ok(LabelChange::Remove(name.to_owned()))
        }
        _ => label(text).map(LabelChange::Set),
    }
}

/// Reads `cpu=CORES,memory=SIZE,disk=SIZE` or a part of it.
pub(crate) fn capacity(text: &str) -> Result<CapacityOverride, ParseError> {
    let mut capacity = CapacityOverride::default();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let before = match part.split_once('=') {
            Some(("cpu", value)) => {
                ("cpu", capacity.cpu_millis.replace(quantity::parse_cpu_millis(value)?))
            }
            Some(("memory", value)) => {
                ("memory", capacity.memory_bytes.replace(quantity::parse_bytes(value)?))
            }
            Some(("disk", value)) => {
                ("disk", capacity.disk_bytes.replace(quantity::parse_bytes(value)?))
            }
            _ => return Err(ParseError::Capacity(part.to_owned())),
        };
        if let (name, Some(_)) = before {
            return Err(ParseError::Twice(name));
        }
    }
    Ok(capacity)
}

/// Machines alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Machines {
    /// How many.
    pub(crate) count: u32,
    /// What each offers.
    pub(crate) capacity: Resources,
}

/// Reads `3xcpu=16,memory=64GiB,disk=1TiB`.
pub(crate) fn machines(text: &str) -> Result<Machines, ParseError> {
    let wrong = || ParseError::Machines(text.to_owned());
    let (count, shape) = text.split_once(['x', '×']).ok_or_else(wrong)?;
    let count = count.trim().parse().ok().filter(|count| *count > 0).ok_or_else(wrong)?;
    let CapacityOverride { cpu_millis, memory_bytes, disk_bytes } = capacity(shape)?;
    let (Some(cpu_millis), Some(memory_bytes)) = (cpu_millis, memory_bytes) else {
        return Err(wrong());
    };
    let disk_bytes = disk_bytes.unwrap_or(0);
    Ok(Machines { count, capacity: Resources { cpu_millis, memory_bytes, disk_bytes } })
}

/// Reads a factor of at least 1.
pub(crate) fn gain(text: &str) -> Result<f64, ParseError> {
    let factor = text.parse().ok().filter(|factor: &f64| factor.is_finite() && *factor >= 1.0);
    factor.ok_or_else(|| ParseError::Gain(text.to_owned()))
}

/// By how much a task must be more important than those that it displaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gap(pub(crate) Option<u8>);

/// Reads `20`, or `off`.
pub(crate) fn gap(text: &str) -> Result<Gap, ParseError> {
    if text == "off" {
        return Ok(Gap(None));
    }
    let gap = text.parse().ok().filter(|gap| (1..=99).contains(gap));
    gap.map(|gap| Gap(Some(gap))).ok_or_else(|| ParseError::Gap(text.to_owned()))
}

/// A time, or for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeOrOff(pub(crate) Option<Duration>);

/// Reads `7d`, or `off`.
pub(crate) fn time_or_off(text: &str) -> Result<TimeOrOff, ParseError> {
    if text == "off" {
        return Ok(TimeOrOff(None));
    }
    let time = quantity::parse_duration(text);
    time.map(|time| TimeOrOff(Some(time))).map_err(|_| ParseError::TimeOrOff(text.to_owned()))
}
