//! Job files that are read whole, and those that are refused: by field, place and cure.

use longshore_proto::container::{Device, Gpus, Ulimit};
use longshore_proto::spec::{Port, Protocol, RestartMode};

use super::*;

const WHOLE: &str = r#"
    name = "web"
    type = "service"          # or "batch"
    datacenters = ["dc1"]
    priority = 60
    on_node_loss = "wait"
    fence = true
    scheduler = "round-robin"
    constraints = ["attribute.os = linux"]
    [[task]]
    name = "server"
    image = "nginx:1.27"
    instances = 3
    entrypoint = ["/entry"]
    command = ["nginx", "-g", "daemon off;"]
    cpus = 0.5
    memory = "256MiB"
    disk = "1GiB"
    env = { A = "b" }
    ports = ["8080:80", "127.0.0.1:53:53/udp", "web=8080"]
    restart = { mode = "always", attempts = 5, window = "10m", delay = "1s", max_delay = "5m" }
    reschedule = { attempts = 3, delay = "5s", max_delay = "5m" }
    migrate = { order = "stop-first", parallel = 2 }
    update = { order = "start-first", parallel = 3, healthy_for = "30s", on_failure = "rollback", progress_deadline = "5m" }
    stop_grace = "10s"
    pull = "never"
    constraints = ["label.rack in r1, r2", "attribute.os = linux"]
    affinities = [
        { match = "label.disk = ssd", weight = -20 },
        { match = 'node.name matches "^web-\d+$"' },
    ]
    spread = ["node.datacenter", "label.rack:30", { attribute = "label.row", weight = 1 }]
    anti_affinity = 0
    distinct_hosts = true
    all_at_once = true
    mounts = [
        "/srv/data:/var/lib/app:ro",
        "cache:/var/cache",
        { type = "bind", source = "/srv/a:b", target = "/a:b", read_only = true },
        { type = "volume", source = "more", target = "/more" },
        { type = "tmpfs", target = "/tmp", size = "64MiB" },
        { type = "tmpfs", target = "/run" },
    ]
    platform = "linux/x86_64"
    registry_login = "team"
    working_dir = "/app"
    user = "1000:1000"
    labels = { team = "${job.name}" }
    hostname = "web-${task.index}"
    network = "backend"
    dns = ["9.9.9.9"]
    dns_search = ["example.org"]
    hosts = { db = "10.0.0.1" }
    cpu_mode = "shares"
    memory_reservation = "64MiB"
    pids = 200
    shm_size = "1MiB"
    ulimits = { nofile = "1024:4096", core = 0 }
    cap_add = ["net_admin"]
    cap_drop = ["ALL"]
    new_privileges = true
    privileged = true
    read_only = true
    devices = ["/dev/kvm:/dev/vm:r"]
    gpus = 1
    init = true
    stop_signal = "SIGQUIT"
    log = { driver = "local", options = { max-size = "1m" } }
    health = { type = "http", port = "web", path = "/up", interval = "2s", timeout = "1s", retries = 2, start_period = "1m" }
"#;

fn toml(text: &str) -> Result<JobSpec, Failure> {
    read(text, Language::Toml, &Namespace::standard())
}

fn refused(text: &str) -> String {
    let failure = toml(text).unwrap_err();
    let (text, hint) = failure.told().unwrap();
    assert!(hint.is_some_and(|hint| !hint.is_empty()), "{text}");
    text.to_owned()
}

/// A job file with one line in its task changed.
fn with(line: &str) -> String {
    format!("name = \"web\"\n[[task]]\nimage = \"x\"\n{line}\n")
}

#[test]
fn every_field_is_read() {
    let job = toml(WHOLE).unwrap();
    assert_eq!((job.name.as_str(), job.priority), ("web", 60));
    assert_eq!(job.job_type, JobType::Service);
    assert_eq!((job.on_node_loss, job.fence), (OnNodeLoss::Wait, true));
    assert_eq!(job.scheduler, Some(SchedulerKind::RoundRobin));
    let spec = &job.specs[0];
    let expected = TaskSpec {
        instances: 3,
        pull: PullPolicy::Never,
        entrypoint: Some(vec!["/entry".into()]),
        command: ["nginx", "-g", "daemon off;"].map(String::from).to_vec(),
        env: BTreeMap::from([("A".into(), "b".into())]),
        resources: Resources { cpu_millis: 500, memory_bytes: 256 << 20, disk_bytes: 1 << 30 },
        ports: vec![
            Port { host: 8080, container: 80, protocol: Protocol::Tcp, host_ip: None, name: None },
            Port {
                host: 53,
                container: 53,
                protocol: Protocol::Udp,
                host_ip: Some("127.0.0.1".parse().unwrap()),
                name: None,
            },
            Port {
                host: Port::DYNAMIC,
                container: 8080,
                protocol: Protocol::Tcp,
                host_ip: None,
                name: Some("web".into()),
            },
        ],
        restart: Some(RestartPolicy {
            mode: RestartMode::Always,
            attempts: 5,
            window_ms: 600_000,
            delay_ms: 1_000,
            delay_ms_max: 300_000,
        }),
        reschedule: Some(ReschedulePolicy {
            attempts: Some(3),
            delay_ms: 5_000,
            delay_ms_max: 300_000,
        }),
        migrate: Some(MigratePolicy { order: ExchangeOrder::StopFirst, parallel: 2 }),
        update: Some(UpdatePolicy {
            order: ExchangeOrder::StartFirst,
            parallel: 3,
            healthy_for_ms: 30_000,
            on_failure: OnFailure::Rollback,
            progress_deadline_ms: 300_000,
        }),
        stop_grace_ms: 10_000,
        // The job's first, and each once.
        constraints: ["attribute.os = linux", "label.rack in r1, r2"]
            .map(|text| text.parse().unwrap())
            .to_vec(),
        affinities: [("label.disk = ssd", -20), ("node.name matches ^web-\\d+$", 50)]
            .map(|(text, weight)| Affinity { constraint: text.parse().unwrap(), weight })
            .to_vec(),
        spread: [("node.datacenter", 50), ("label.rack", 30), ("label.row", 1)]
            .map(|(text, weight)| Spread { attribute: text.parse().unwrap(), weight })
            .to_vec(),
        anti_affinity: Some(0),
        distinct_hosts: true,
        all_at_once: true,
        mounts: [
            ("/var/lib/app", MountSource::Bind { path: "/srv/data".into() }, true),
            ("/var/cache", MountSource::Volume { name: "cache".into() }, false),
            ("/a:b", MountSource::Bind { path: "/srv/a:b".into() }, true),
            ("/more", MountSource::Volume { name: "more".into() }, false),
            ("/tmp", MountSource::Tmpfs { size_bytes: Some(64 << 20) }, false),
            ("/run", MountSource::Tmpfs { size_bytes: None }, false),
        ]
        .map(|(target, source, read_only)| Mount { target: target.into(), source, read_only })
        .to_vec(),
        health: Some(HealthCheck {
            probe: Probe::Http { port: "web".into(), path: "/up".into() },
            interval_ms: 2_000,
            timeout_ms: 1_000,
            retries: 2,
            start_period_ms: 60_000,
        }),
        container: ContainerSpec {
            platform: Some("linux/amd64".parse().unwrap()),
            registry_login: Some("team".parse().unwrap()),
            working_dir: Some("/app".into()),
            user: Some("1000:1000".into()),
            labels: [("team".to_owned(), "${job.name}".to_owned())].into(),
            hostname: Some("web-${task.index}".into()),
            network: Network::Named("backend".into()),
            dns: vec!["9.9.9.9".parse().unwrap()],
            dns_search: vec!["example.org".into()],
            hosts: [("db".to_owned(), "10.0.0.1".parse().unwrap())].into(),
            cpu_mode: CpuMode::Shares,
            memory_reservation_bytes: Some(64 << 20),
            pids_max: Some(200),
            shm_bytes: Some(1 << 20),
            ulimits: [("nofile", 1024, 4096), ("core", 0, 0)]
                .map(|(name, soft, hard)| (name.to_owned(), Ulimit { soft, hard }))
                .into(),
            cap_add: vec!["NET_ADMIN".into()],
            cap_drop: vec!["ALL".into()],
            new_privileges: true,
            privileged: true,
            read_only: true,
            devices: vec![Device {
                host: "/dev/kvm".into(),
                container: Some("/dev/vm".into()),
                permissions: "r".into(),
            }],
            gpus: Some(Gpus::Count(1)),
            init: true,
            stop_signal: Some("SIGQUIT".into()),
            log: Some(LogDriver {
                driver: "local".into(),
                options: [("max-size".to_owned(), "1m".to_owned())].into(),
            }),
        },
        ..TaskSpec::new("server".parse().unwrap(), "nginx:1.27")
    };
    assert_eq!(*spec, expected);
}

#[test]
fn the_least_is_a_name_and_an_image() {
    let job = toml("name = \"web\"\ntask = [{ image = \"x\" }]").unwrap();
    assert_eq!(job.specs, [TaskSpec::new("main".parse().unwrap(), "x")]);
    assert_eq!((job.priority, job.job_type), (50, JobType::Service));
    assert_eq!(job.namespace, Namespace::standard());
}

#[test]
fn json_is_read_as_well() {
    let text = r#"{"name": "web", "namespace": "team-a", "task": [{"image": "x", "cpus": 2, "restart": "on-failure:7"}]}"#;
    let job = read(text, Language::Json, &Namespace::standard()).unwrap();
    assert_eq!(job.namespace.as_str(), "team-a");
    assert_eq!(job.specs[0].resources.cpu_millis, 2000);
    assert_eq!(job.specs[0].restart.as_ref().unwrap().attempts, 7);
    let failure = read(
        r#"{"name": "web", "task": [{"image": "x", "memory": -1}]}"#,
        Language::Json,
        &Namespace::standard(),
    );
    let failure = failure.unwrap_err();
    let text = failure.told().unwrap().0;
    assert!(text.contains("memory") && text.contains("write 256MiB") && text.contains("line 1"));
}

#[test]
fn the_language_follows_the_name_or_the_text() {
    assert_eq!(Language::of(Path::new("a.json"), ""), Language::Json);
    assert_eq!(Language::of(Path::new("a.toml"), "{"), Language::Toml);
    assert_eq!(Language::of(Path::new("-"), " {}"), Language::Json);
    assert_eq!(Language::of(Path::new("-"), "name = 1"), Language::Toml);
}

#[test]
fn an_unknown_field_is_refused_with_its_line() {
    let text = refused(&with("memroy = \"1GiB\""));
    assert!(text.contains("line 4") && text.contains("unknown field `memroy`"), "{text}");
    let text = refused("nmae = \"web\"");
    assert!(text.contains("line 1") && text.contains("unknown field `nmae`"), "{text}");
    let text = refused(&with("restart = { mode = \"always\", tries = 1 }"));
    assert!(text.contains("line 4") && text.contains("unknown field `tries`"), "{text}");
}

#[test]
fn odd_values_name_the_field_the_line_and_the_cure() {
    for (line, field, cure) in [
        ("memory = -1", "memory", "write 256MiB"),
        ("memory = \"-1\"", "memory", "write 256MiB"),
        ("memory = \"10XB\"", "memory", "write 256MiB"),
        ("memory = 1.5", "memory", "write 256MiB"),
        ("memory = true", "memory", "write 256MiB"),
        ("disk = \"1 Gig\"", "disk", "write 256MiB"),
        ("cpus = -0.5", "cpus", "write cores as 0.5"),
        ("cpus = \"many\"", "cpus", "write cores as 0.5"),
        ("cpus = nan", "cpus", "write cores as 0.5"),
        ("stop_grace = \"soon\"", "stop_grace", "write 500ms"),
        ("stop_grace = 10", "stop_grace", "write 500ms"),
        ("instances = -1", "instances", "1 to 100000"),
        ("instances = 1.5", "instances", "1 to 100000"),
        ("instances = 99999999999", "instances", "1 to 100000"),
        ("command = \"sleep 1\"", "command", "[\"sleep\", \"60\"]"),
        ("entrypoint = \"sh\"", "entrypoint", "[\"sleep\", \"60\"]"),
        ("ports = [\"80:\"]", "ports", "8080:80"),
        ("ports = [0]", "ports", "8080:80"),
        ("platform = \"arm\"", "platform", "linux/arm64"),
        ("registry_login = \"../x\"", "registry_login", "registry login"),
        ("pids = \"many\"", "pids", "whole number"),
        ("shm_size = \"big\"", "shm_size", "write 256MiB"),
        ("memory_reservation = -1", "memory_reservation", "write 256MiB"),
        ("cpu_mode = \"all\"", "cpu_mode", "`quota`"),
        ("ulimits = { nofile = \"x\" }", "ulimits", "1024:4096"),
        ("cap_add = [\"a b\"]", "capability", "NET_ADMIN"),
        ("devices = [\"kvm\"]", "devices", "/dev/kvm"),
        ("gpus = 0", "gpus", "write all"),
        ("health = { type = \"http\" }", "health", "port = \"web\""),
        ("health = { type = \"exec\" }", "health", "pg_isready"),
        ("health = { type = \"image\", port = 1 }", "health", "leave them out"),
        ("health = { type = \"tcp\", port = 1, timeout = 5 }", "timeout", "write 500ms"),
        ("health = { type = \"tcp\", port = 1, retries = -1 }", "retries", "whole number"),
        ("init = 1", "init", "write true or false"),
        ("privileged = \"yes\"", "privileged", "write true or false"),
        ("labels = { a = 1 }", "labels", "in quotes"),
        ("dns = [\"x\"]", "dns", "IP address"),
        ("log = { driver = \"x\", options = { a = 1 } }", "options", "in quotes"),
        ("restart = \"sometimes\"", "restart", "on-failure:5"),
        ("restart = { mode = \"sometimes\" }", "restart", "on-failure:5"),
        ("restart = { mode = \"always\", delay = \"-1s\" }", "delay", "write 500ms"),
        ("restart = { mode = \"always\", attempts = -1 }", "attempts", "whole number"),
        ("migrate = { parallel = \"x\" }", "parallel", "write a whole number from 1"),
        ("migrate = { parallel = 0 }", "parallel", "write a whole number from 1"),
        ("update = { parallel = 0 }", "parallel", "write a whole number from 1"),
        ("update = { order = \"both\" }", "order", "start-first"),
        ("update = { on_failure = \"stop\" }", "on_failure", "rollback"),
        ("update = { healthy_for = 5 }", "healthy_for", "write 500ms"),
        ("update = { progress_deadline = \"x\" }", "progress_deadline", "write 500ms"),
        ("reschedule = { max_delay = 5 }", "max_delay", "write 500ms"),
        ("env = { A = 1 }", "env", "in quotes"),
        ("pull = \"daily\"", "pull", "if-missing"),
        ("name = \"a.b\"", "name", "use a-z"),
        ("constraints = [\"rack = r1\"]", "constraints", "label.KEY"),
        ("constraints = [\"label.rack ~ r1\"]", "constraints", "not-in"),
        ("constraints = [\"node.name matches (\"]", "constraints", "brackets"),
        ("constraints = [\"node.name matches ((a{99}){99}){99}\"]", "constraints", "small"),
        ("constraints = [7]", "constraints", "label.KEY"),
        ("constraints = \"label.gpu exists\"", "constraints", "expected a sequence"),
        ("affinities = [{ match = \"disk\" }]", "affinities", "label.KEY"),
        ("affinities = [{ match = \"label.a exists\", weight = 0 }]", "weight", "1 to 100"),
        ("affinities = [{ match = \"label.a exists\", weight = 101 }]", "weight", "1 to 100"),
        ("affinities = [{ match = \"label.a exists\", weight = nan }]", "weight", "1 to 100"),
        ("affinities = [{ weight = 1 }]", "affinities", "missing field `match`"),
        ("spread = [\"\"]", "spread", "node.datacenter"),
        ("spread = [\"label.\"]", "spread", "label.KEY"),
        ("spread = [\"label.rack:101\"]", "spread", "label.rack:30"),
        ("spread = [{ attribute = \"rack\" }]", "spread", "label.KEY"),
        ("spread = [{ attribute = \"label.a\", weight = 101 }]", "weight", "1 (hardly) to 100"),
        ("anti_affinity = 101", "anti_affinity", "to 100"),
        ("anti_affinity = nan", "anti_affinity", "to 100"),
        ("distinct_hosts = \"yes\"", "distinct_hosts", "write true or false"),
        ("all_at_once = 1", "all_at_once", "write true or false"),
        ("mounts = [\"/data\"]", "mounts", "SOURCE:TARGET[:ro]"),
        ("mounts = [\"./data:/data\"]", "mounts", "SOURCE:TARGET[:ro]"),
        ("mounts = [{ type = \"nfs\", target = \"/x\" }]", "mounts", "`tmpfs`"),
        ("mounts = [{ type = \"bind\", target = \"/x\" }]", "mounts", "source = \"/srv/data\""),
        ("mounts = [{ type = \"volume\", target = \"/x\" }]", "mounts", "source = \"cache\""),
        (
            "mounts = [{ type = \"tmpfs\", target = \"/x\", source = \"a\" }]",
            "mounts",
            "leave it out",
        ),
        (
            "mounts = [{ type = \"volume\", target = \"/x\", source = \"ab\", size = 1 }]",
            "mounts",
            "leave it out",
        ),
        (
            "mounts = [{ type = \"tmpfs\", target = \"/x\", size = \"big\" }]",
            "size",
            "write 256MiB",
        ),
        (
            "mounts = [{ type = \"tmpfs\", target = \"/x\", read_only = 1 }]",
            "read_only",
            "write true or false",
        ),
    ] {
        let text = refused(&with(line));
        assert!(text.contains("line 4"), "{line}: {text}");
        assert!(text.contains(field) && text.contains(cure), "{line}: {text}");
    }
}

#[test]
fn the_rules_for_jobs_hold_before_anything_is_sent() {
    assert!(refused(&with("instances = 0")).contains("specs.main.instances is 0"));
    assert!(refused(&with("instances = 1000000")).contains("specs.main.instances is 1000000"));
    assert!(refused(&with("memory = 0")).contains("specs.main.resources.memory_bytes"));
    assert!(refused("name = \"web\"\ntask = []").contains("specs is empty"));
    let text = refused(&with("mounts = [\"ab:/x\", \"/a:/x/\"]"));
    assert!(text.contains("specs.main.mounts, entry 2"), "{text}");
    assert!(refused(&with("mounts = [\"a,b:/x\"]")).contains("specs.main.mounts, entry 1"));
    let many = vec!["\"label.a exists\""; 33].join(",");
    assert!(refused(&with(&format!("constraints = [{many}]"))).contains("has 33 entries"));
    let text = refused("name = \"web\"\npriority = 1000\ntask = [{ image = \"x\" }]");
    assert!(text.contains("line 2") && text.contains("1 (least) to 100"), "{text}");
    let text = refused("name = \"web\"\n");
    assert!(text.contains("missing field `task`"), "{text}");
}
