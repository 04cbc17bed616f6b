//! What a spec says travels as documented, and what it leaves out is filled in.

use super::*;
use crate::codec::{decode, encode};

/// A task spec as it was before placement preferences and mounts.
#[derive(Serialize)]
struct Before {
    name: SpecName,
    image: String,
    command: Vec<String>,
}

fn name() -> SpecName {
    "main".parse().unwrap()
}

fn service(spec: TaskSpec) -> JobSpec {
    JobSpec::new("web".parse().unwrap(), JobType::Service, spec)
}

#[test]
fn a_spec_of_before_is_read_as_one_without_preferences() {
    let before = Before { name: name(), image: "x".into(), command: vec![] };
    let spec: TaskSpec = decode(&encode(&before)).unwrap();
    assert_eq!(spec, TaskSpec::new(name(), "x"));
}

#[test]
fn what_is_not_said_takes_no_room() {
    let json = serde_json::to_string(&TaskSpec::new(name(), "x")).unwrap();
    for field in [
        "constraints",
        "affinities",
        "spread",
        "anti_affinity",
        "distinct_hosts",
        "migrate",
        "update",
        "all_at_once",
        "mounts",
        "container",
        "health",
    ] {
        assert!(!json.contains(field), "{field}: {json}");
    }
}

#[test]
fn preferences_and_mounts_travel_as_documented() {
    let spec = TaskSpec {
        constraints: vec!["label.rack in r1, r2".parse().unwrap()],
        affinities: vec![Affinity { constraint: "label.disk = ssd".parse().unwrap(), weight: -50 }],
        spread: vec![Spread::usual(Attribute::Datacenter)],
        anti_affinity: Some(0),
        distinct_hosts: true,
        all_at_once: true,
        mounts: vec![
            Mount {
                target: "/data".into(),
                source: MountSource::Bind { path: "/srv/data".into() },
                read_only: true,
            },
            Mount {
                target: "/cache".into(),
                source: MountSource::Volume { name: "cache".into() },
                read_only: false,
            },
            Mount {
                target: "/tmp".into(),
                source: MountSource::Tmpfs { size_bytes: Some(64 << 20) },
                read_only: false,
            },
        ],
        ..TaskSpec::new(name(), "x")
    };
    assert_eq!(decode::<TaskSpec>(&encode(&spec)).as_ref(), Ok(&spec));
    let value = serde_json::to_value(&spec).unwrap();
    let expected = serde_json::json!({
        "constraints": [{ "attribute": "label.rack", "operator": "in", "values": ["r1", "r2"] }],
        "affinities": [{
            "match": { "attribute": "label.disk", "operator": "=", "values": ["ssd"] }, "weight": -50,
        }],
        "spread": [{ "attribute": "node.datacenter", "weight": 50 }],
        "anti_affinity": 0,
        "distinct_hosts": true,
        "all_at_once": true,
        "mounts": [
            { "target": "/data", "source": { "bind": { "path": "/srv/data" } }, "read_only": true },
            { "target": "/cache", "source": { "volume": { "name": "cache" } } },
            { "target": "/tmp", "source": { "tmpfs": { "size_bytes": 67_108_864 } } },
        ],
    });
    for (field, wanted) in expected.as_object().unwrap() {
        assert_eq!(&value[field], wanted, "{field}");
    }
    let plain: Spread = serde_json::from_str(r#"{ "attribute": "label.rack" }"#).unwrap();
    assert_eq!(plain, Spread::usual(Attribute::Label("rack".into())));
    assert!(serde_json::from_str::<Spread>(r#"{ "attribute": "" }"#).is_err());
}

#[test]
fn a_service_keeps_its_tasks_apart_unless_it_says_otherwise() {
    let resolved = |job_type, anti_affinity| {
        let spec = TaskSpec { anti_affinity, ..TaskSpec::new(name(), "x") };
        JobSpec { job_type, ..service(spec) }.resolve().specs.swap_remove(0).anti_affinity
    };
    assert_eq!(resolved(JobType::Service, None), Some(100));
    assert_eq!(resolved(JobType::Batch, None), Some(0));
    assert_eq!(resolved(JobType::Service, Some(0)), Some(0));
    assert_eq!(resolved(JobType::Batch, Some(100)), Some(100));
}

#[test]
fn a_platform_becomes_a_constraint_once() {
    let mut job = service(TaskSpec::new(name(), "x"));
    job.specs[0].container.platform = Some("linux/arm/v7".parse().unwrap());
    let resolved = job.resolve();
    let wanted: Vec<Constraint> = vec!["attribute.platform = linux/arm".parse().unwrap()];
    assert_eq!(resolved.specs[0].constraints, wanted);
    assert_eq!(resolved.clone().resolve(), resolved);
}

#[test]
fn schedulers_travel_under_the_name_that_is_written() {
    for kind in SchedulerKind::ALL {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
    }
}

#[test]
fn an_update_of_before_says_nothing_of_failures_and_is_written_as_it_was() {
    let before = serde_json::json!({ "order": "start-first", "parallel": 2 });
    let policy: UpdatePolicy = serde_json::from_value(before.clone()).unwrap();
    let usual = UpdatePolicy::usual();
    assert_eq!(policy, UpdatePolicy { order: ExchangeOrder::StartFirst, parallel: 2, ..usual });
    assert_eq!((usual.healthy_for_ms, usual.on_failure), (10_000, OnFailure::Pause));
    assert_eq!(serde_json::to_value(policy).unwrap(), before);
    let back = UpdatePolicy { on_failure: OnFailure::Rollback, healthy_for_ms: 0, ..policy };
    let written = serde_json::to_value(back).unwrap();
    assert_eq!(written["on_failure"], "rollback");
    assert_eq!(serde_json::from_value::<UpdatePolicy>(written).unwrap(), back);
}
