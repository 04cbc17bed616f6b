//! `longshore manager`: from options to a running manager.

use longshore_bus::Credentials;
use longshore_core::cluster::Balancing;
use longshore_manager::{Keeping, Options};
use longshore_proto::permission::Role;

use crate::args::{Global, program::Manager};
use crate::connect::{Target, user};
use crate::failure::{Exit, Failure};
use crate::signal;

/// Runs a manager until it is told to stop.
pub(crate) async fn run(global: &Global, wish: Manager) -> Result<Exit, Failure> {
    let options = options(global, wish)?;
    let stop = signal::stop_token()?;
    // Among the runtime's own threads, not beside them: what arrives is handed over without waking another thread.
    match tokio::spawn(longshore_manager::run(options, stop)).await {
        Ok(Ok(())) => Ok(Exit::Done),
        Ok(Err(error)) => Err(Failure::new("the manager cannot go on").cause(&error)),
        Err(error) => Err(Failure::new("the manager has ended by itself: a bug").cause(&error)),
    }
}

/// How the manager is to be run.
fn options(global: &Global, wish: Manager) -> Result<Options, Failure> {
    if wish.suspect_after >= wish.lost_after {
        return Err(Failure::new("--suspect-after is not shorter than --lost-after")
            .hint("a node is suspect first, and lost later: 8s and 15s are usual")
            .exit(Exit::Usage));
    }
    let target = Target::from_options(global);
    let credentials = target.credentials.clone();
    if credentials.is_none() && wish.core_creds.is_some() {
        return Err(Failure::new("--core-creds is given without --creds")
            .hint("a manager with accounts needs both: --creds for everybody's, --core-creds for its own")
            .exit(Exit::Usage));
    }
    let name = match (&wish.name, &credentials) {
        (Some(name), _) => name.clone(),
        (None, Some(path)) => Credentials::load_as(path, Role::Manager)?.name,
        (None, None) => user("manager")?,
    };
    let bus =
        target.program_options(global, Role::Manager, name.clone(), credentials.as_deref())?;
    let core = wish
        .core_creds
        .as_deref()
        .map(|path| target.program_options(global, Role::ManagerCore, name.clone(), Some(path)))
        .transpose()?;
    let mut options = Options {
        bus,
        core,
        data_dir: wish.data_dir,
        name,
        settings: Default::default(),
        keeping: Keeping {
            snapshot_records: wish.snapshot_records,
            history_age_max: wish.history_age,
            history_bytes_max: wish.history_size,
            replicas: usize::from(wish.replicas),
        },
        heal_log: wish.heal_log,
        log_bytes_max: wish.log_size,
        events_age_max: wish.events_age,
        events_bytes_max: wish.events_size,
    };
    options.settings.scheduler = wish.scheduler.into();
    options.settings.preempt_gap = wish.preempt_gap.0;
    options.settings.balancing = wish.rebalance.then(|| Balancing {
        moves_max: usize::try_from(wish.rebalance_moves).unwrap_or(usize::MAX),
        window_ms: millis(wish.rebalance_every),
        gain: wish.rebalance_gain,
    });
    options.settings.suspect_after_ms = millis(wish.suspect_after);
    options.settings.lost_after_ms = millis(wish.lost_after);
    Ok(options)
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use longshore_proto::name::UserName;
    use longshore_proto::spec::SchedulerKind;

    use super::*;
    use crate::args::{Cli, Verb};

    fn made(words: &[&str]) -> Result<Options, Failure> {
        let cli = Cli::try_parse_from(
            [&["longshore", "manager", "--data-dir", "/d", "--nats", "nats://a"], words].concat(),
        )
        .unwrap();
        let Verb::Manager(wish) = cli.verb else { panic!("not manager") };
        options(&cli.global, wish)
    }

    fn credentials(role: Role, folder: &std::path::Path) -> String {
        let name: UserName = "m1".parse().unwrap();
        let path = folder.join(format!("{role}.creds"));
        std::fs::write(&path, Credentials::generate(role, name).unwrap().to_toml()).unwrap();
        path.display().to_string()
    }

    #[test]
    fn the_least_is_a_folder() {
        let options = made(&[]).unwrap();
        assert_eq!((options.name.as_str(), options.keeping.replicas), ("manager", 1));
        assert!(options.core.is_none() && options.bus.credentials.is_none());
        assert!(options.bus.wait_for_server, "a manager waits for its server");
        assert_eq!(
            (options.settings.suspect_after_ms, options.settings.lost_after_ms),
            (8_000, 15_000)
        );
        assert_eq!(options.settings.scheduler, SchedulerKind::Epvm);
        assert_eq!((options.settings.preempt_gap, options.settings.balancing), (Some(20), None));
    }

    #[test]
    fn displacing_and_balancing_are_switched_here() {
        let options = made(&["--preempt-gap", "off", "--rebalance"]).unwrap();
        assert_eq!(options.settings.preempt_gap, None);
        assert_eq!(options.settings.balancing, Some(Balancing::default()));
        let options =
            made(&["--rebalance", "--rebalance-every", "10s", "--rebalance-moves", "1"]).unwrap();
        let wanted = Balancing { moves_max: 1, window_ms: 10_000, gain: 2.0 };
        assert_eq!(options.settings.balancing, Some(wanted));
    }

    #[test]
    fn each_account_has_its_own_credentials() {
        let folder = tempfile::tempdir().unwrap();
        let bus = credentials(Role::Manager, folder.path());
        let core = credentials(Role::ManagerCore, folder.path());
        let options =
            made(&["--creds", &bus, "--core-creds", &core, "--scheduler", "round-robin"]).unwrap();
        assert_eq!(options.name.as_str(), "m1");
        assert_eq!(options.bus.credentials.unwrap().role, Role::Manager);
        assert_eq!(options.core.unwrap().credentials.unwrap().role, Role::ManagerCore);
        assert_eq!(options.settings.scheduler, SchedulerKind::RoundRobin);
        let failure = made(&["--creds", &core, "--core-creds", &bus]).unwrap_err();
        assert!(failure.told().unwrap().0.contains("belongs to a manager-core"), "{failure:?}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let failure = made(&["--suspect-after", "15s"]).unwrap_err();
        assert_eq!(failure.status(), Exit::Usage);
        let failure = made(&["--core-creds", "/x"]).unwrap_err();
        assert_eq!(failure.status(), Exit::Usage);
    }
}
