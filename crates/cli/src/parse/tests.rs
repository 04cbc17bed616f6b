//! Each small text, as it is meant and as it is refused.

use super::*;

#[test]
fn a_time_may_be_for_ever() {
    assert_eq!(time_or_off("2h").unwrap(), TimeOrOff(Some(Duration::from_secs(7_200))));
    assert_eq!(time_or_off("off").unwrap(), TimeOrOff(None));
    for nonsense in ["", "never", "-1h", "7"] {
        assert!(time_or_off(nonsense).is_err(), "{nonsense}");
    }
}

#[test]
fn machines_are_a_number_and_a_shape() {
    let made = machines("3xcpu=0.5,memory=1GiB").unwrap();
    let capacity = Resources { cpu_millis: 500, memory_bytes: 1 << 30, disk_bytes: 0 };
    assert_eq!(made, Machines { count: 3, capacity });
    assert_eq!(machines("1×cpu=1,memory=1GiB,disk=1GiB").unwrap().capacity.disk_bytes, 1 << 30);
    for nonsense in ["", "3", "0xcpu=1,memory=1GiB", "-1xcpu=1,memory=1GiB", "2xcpu=1", "2xgpu=1"] {
        assert!(machines(nonsense).is_err(), "{nonsense}");
    }
}

#[test]
fn factors_and_gaps_have_their_ranges() {
    assert_eq!((gain("1"), gain("2.5")), (Ok(1.0), Ok(2.5)));
    assert_eq!((gap("20"), gap("off")), (Ok(Gap(Some(20))), Ok(Gap(None))));
    for nonsense in ["0.9", "-1", "nan", "inf", ""] {
        assert!(gain(nonsense).is_err(), "{nonsense}");
    }
    for nonsense in ["0", "100", "-1", "on", ""] {
        assert!(gap(nonsense).is_err(), "{nonsense}");
    }
}

#[test]
fn variables_are_set_or_taken() {
    assert_eq!(variable("A=b=c"), Ok(Variable { name: "A".into(), value: Some("b=c".into()) }));
    assert_eq!(variable("A="), Ok(Variable { name: "A".into(), value: Some(String::new()) }));
    assert_eq!(variable("A"), Ok(Variable { name: "A".into(), value: None }));
    for bad in ["", "=x", "A=\0"] {
        assert!(variable(bad).is_err(), "{bad:?} must be refused");
    }
}

#[test]
fn ports_are_read_as_docker_writes_them() {
    let tcp = |host, container| Port {
        host,
        container,
        protocol: Protocol::Tcp,
        host_ip: None,
        name: None,
    };
    assert_eq!(publish("8080:80"), Ok(tcp(8080, 80)));
    assert_eq!(publish("8080:80/tcp"), Ok(tcp(8080, 80)));
    assert_eq!(publish("53:53/udp"), Ok(Port { protocol: Protocol::Udp, ..tcp(53, 53) }));
    assert_eq!(
        publish("127.0.0.1:8080:80"),
        Ok(Port { host_ip: Some("127.0.0.1".parse().unwrap()), ..tcp(8080, 80) })
    );
    assert_eq!(
        publish("[::1]:8080:80"),
        Ok(Port { host_ip: Some("::1".parse().unwrap()), ..tcp(8080, 80) })
    );
}

#[test]
fn ports_may_have_names_and_be_left_to_the_node() {
    let port = |text| publish(text).unwrap();
    assert!(port("80").is_dynamic() && port("80").name.is_none());
    let named = port("web=127.0.0.1:8080:80/udp");
    assert_eq!((named.name.as_deref(), named.host, named.container), (Some("web"), 8080, 80));
    assert!(port("web=80").is_dynamic());
    assert!(port("127.0.0.1::80").is_dynamic() && port("[::1]::80").host_ip.is_some());
    assert_eq!(port_range("20000-20010"), Ok(20_000..=20_010));
    for bad in ["", "1", "0-5", "5-4", "1-70000", "a-b"] {
        assert!(port_range(bad).is_err(), "{bad}");
    }
}

#[test]
fn words_of_the_container_are_read_as_docker_writes_them() {
    assert_eq!(host("db:10.0.0.1"), Ok(("db".into(), "10.0.0.1".parse().unwrap())));
    assert_eq!(host("db:::1"), Ok(("db".into(), "::1".parse().unwrap())));
    let limit = |soft, hard| ("nofile".to_owned(), Ulimit { soft, hard });
    assert_eq!(ulimit("nofile=1024:4096"), Ok(limit(1024, 4096)));
    assert_eq!(ulimit("nofile=-1"), Ok(limit(-1, -1)));
    assert_eq!(capability("cap_net_admin").as_deref(), Ok("NET_ADMIN"));
    let kvm = |container: Option<&str>, permissions: &str| Device {
        host: "/dev/kvm".into(),
        container: container.map(str::to_owned),
        permissions: permissions.into(),
    };
    assert_eq!(device("/dev/kvm"), Ok(kvm(None, "rw")));
    assert_eq!(device("/dev/kvm:r"), Ok(kvm(None, "r")));
    assert_eq!(device("/dev/kvm:/dev/x"), Ok(kvm(Some("/dev/x"), "rw")));
    assert_eq!(device("/dev/kvm:/dev/x:rwm"), Ok(kvm(Some("/dev/x"), "rwm")));
    assert_eq!((gpus("all"), gpus("2")), (Ok(Gpus::All), Ok(Gpus::Count(2))));
    for bad in [
        host("db").is_err(),
        ulimit("nofile").is_err(),
        ulimit("nofile=x").is_err(),
        capability("a b").is_err(),
        device("kvm").is_err(),
        device("/dev/kvm:x").is_err(),
        device("/dev/kvm:/dev/x:/dev/y").is_err(),
        device("/a:/b:r:w").is_err(),
        gpus("0").is_err(),
    ] {
        assert!(bad);
    }
}

#[test]
fn odd_ports_are_refused_with_the_cure() {
    for bad in [
        "",
        "0",
        "=",
        "0:80",
        "80:0",
        "80:65536",
        "-1:80",
        "+1:80",
        "a:80",
        "80:80/sctp",
        "x:1:2",
        ":",
    ] {
        let text = publish(bad).unwrap_err().to_string();
        assert!(text.contains("such as 8080:80"), "{bad}: {text}");
    }
}

#[test]
fn mounts_are_read_as_docker_writes_them() {
    let made = |target: &str, source, read_only| Mount { target: target.into(), source, read_only };
    let bind = |path: &str| MountSource::Bind { path: path.into() };
    let volume = |name: &str| MountSource::Volume { name: name.into() };
    assert_eq!(mount("/srv/data:/data"), Ok(made("/data", bind("/srv/data"), false)));
    assert_eq!(mount("/srv/data:/data:ro"), Ok(made("/data", bind("/srv/data"), true)));
    assert_eq!(mount("cache:/data:rw"), Ok(made("/data", volume("cache"), false)));
    for bad in [
        "",
        "/data",
        ":/data",
        "cache:",
        "cache:data",
        "./a:/data",
        "../a:/data",
        "~/a:/data",
        "a:/b:no",
        "a:/b:ro:z",
        "a:/b:",
    ] {
        let text = mount(bad).unwrap_err().to_string();
        assert!(text.contains("/srv/data:/data:ro") && text.contains(bad), "{bad}: {text}");
    }
}

#[test]
fn affinities_have_a_constraint_and_a_weight() {
    let affinity_of = |text: &str, weight| Affinity { constraint: text.parse().unwrap(), weight };
    assert_eq!(affinity("label.disk = ssd@50"), Ok(affinity_of("label.disk = ssd", 50)));
    assert_eq!(affinity("label.disk = ssd @ -100"), Ok(affinity_of("label.disk = ssd", -100)));
    assert_eq!(affinity("label.by = me@home@1"), Ok(affinity_of("label.by = me@home", 1)));
    for bad in [
        "",
        "label.disk = ssd",
        "label.disk = ssd@",
        "label.disk = ssd@0",
        "label.disk = ssd@101",
        "label.disk = ssd@-101",
        "label.disk = ssd@1.5",
        "label.disk = ssd@nan",
        "label.by = me@home",
    ] {
        let text = affinity(bad).unwrap_err().to_string();
        assert!(text.contains("ssd@50") && text.contains("1 to 100"), "{bad}: {text}");
    }
    let text = affinity("disk = ssd@50").unwrap_err().to_string();
    assert!(text.contains("\"disk\"") && text.contains("label.KEY"), "{text}");
}

#[test]
fn what_to_spread_over_may_have_a_weight() {
    let label = |key: &str| Attribute::Label(key.into());
    assert_eq!(spread("node.datacenter"), Ok(Spread::usual(Attribute::Datacenter)));
    assert_eq!(spread("label.rack:30"), Ok(Spread { attribute: label("rack"), weight: 30 }));
    assert_eq!(spread("label.a:b:1"), Ok(Spread { attribute: label("a:b"), weight: 1 }));
    for bad in ["label.rack:", "label.rack:0", "label.rack:101", "label.rack:-1", "label.rack:x"] {
        assert!(spread(bad).unwrap_err().to_string().contains("label.rack:30"), "{bad}");
    }
    for bad in ["", " ", "rack", "label.", ":30", "label.rack = r1"] {
        assert!(spread(bad).unwrap_err().to_string().contains("write node.name"), "{bad}");
    }
}

#[test]
fn a_path_to_lend_is_absolute() {
    assert_eq!(lent_path("/srv/data"), Ok("/srv/data".to_owned()));
    for bad in ["", "srv", "./srv", "/srv/../etc", "/srv\n"] {
        assert!(lent_path(bad).unwrap_err().to_string().contains("such as /srv/data"), "{bad}");
    }
}

#[test]
fn restart_policies_are_read() {
    assert_eq!(restart("never"), Ok(RestartPolicy::usual(RestartMode::Never)));
    assert_eq!(restart("always"), Ok(RestartPolicy::usual(RestartMode::Always)));
    assert_eq!(restart("on-failure:7").unwrap().attempts, 7);
    assert_eq!(restart("on-failure").unwrap().mode, RestartMode::OnFailure);
    for bad in ["", "no", "always:3", "on-failure:", "on-failure:-1", "unless-stopped"] {
        assert!(restart(bad).unwrap_err().to_string().contains("on-failure:5"), "{bad}");
    }
}

#[test]
fn capacity_is_given_in_part_or_whole() {
    assert_eq!(capacity(""), Ok(CapacityOverride::default()));
    assert_eq!(
        capacity("cpu=0.5, memory=1GiB"),
        Ok(CapacityOverride {
            cpu_millis: Some(500),
            memory_bytes: Some(1 << 30),
            disk_bytes: None,
        })
    );
    for bad in ["cpu", "gpu=1", "cpu=-1", "memory=10XB", "cpu=1,cpu=2"] {
        assert!(capacity(bad).is_err(), "{bad} must be refused");
    }
}

#[test]
fn labels_need_a_name_and_a_value() {
    assert_eq!(label("a=b=c"), Ok(Label { name: "a".into(), value: "b=c".into() }));
    assert_eq!(label("a="), Ok(Label { name: "a".into(), value: String::new() }));
    assert!(label("a").is_err() && label("=b").is_err());
}
