//! Every option of every verb. Reading them validates what the user has written and does nothing else.

pub(crate) mod auth;
pub(crate) mod cluster;
pub(crate) mod container;
pub(crate) mod dev;
#[cfg(test)]
mod docs;
pub(crate) mod job;
pub(crate) mod node;
pub(crate) mod plan;
pub(crate) mod program;
pub(crate) mod reach;
pub(crate) mod simulate;
pub(crate) mod task;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use longshore_proto::name::{Namespace, Root};
use longshore_proto::quantity;

/// Runs containers on many machines, over NATS.
#[derive(Debug, Parser)]
#[command(name = "longshore", version, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// The options of every verb.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The options of every verb.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Options of every verb")]
pub(crate) struct Global {
    /// The NATS servers, separated by commas [default: the context of `longshore dev`, else
    /// nats://127.0.0.1:4222]
    #[arg(
        long,
        global = true,
        env = "LONGSHORE_NATS_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    pub(crate) nats: Option<String>,
    /// The first token of every subject of the cluster [default: longshore]
    #[arg(long, global = true, env = "LONGSHORE_ROOT", value_name = "NAME")]
    pub(crate) root: Option<Root>,
    /// The credential file, as `longshore auth` writes it
    #[arg(long, global = true, env = "LONGSHORE_CREDS", value_name = "FILE")]
    pub(crate) creds: Option<PathBuf>,
    /// The namespace of jobs and tasks [default: default]
    #[arg(long, global = true, env = "LONGSHORE_NAMESPACE", value_name = "NAME")]
    pub(crate) namespace: Option<Namespace>,
    /// The certificates of the authorities that vouch for the server
    #[arg(long, global = true, env = "LONGSHORE_TLS_CA", value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// This client's certificate
    #[arg(
        long,
        global = true,
        env = "LONGSHORE_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The key of this client's certificate
    #[arg(
        long,
        global = true,
        env = "LONGSHORE_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub(crate) tls_key: Option<PathBuf>,
    /// Ask the leader, after a barrier: the answer shows everything that was acknowledged before
    #[arg(long, global = true, env = "LONGSHORE_CONSISTENT")]
    pub(crate) consistent: bool,
    /// How long a question may wait for its answer
    #[arg(
        long, global = true, env = "LONGSHORE_TIMEOUT", value_name = "TIME", default_value = "10s",
        value_parser = quantity::parse_duration, allow_hyphen_values = true
    )]
    pub(crate) timeout: Duration,
    /// The form of this program's own log, on stderr; RUST_LOG sets its level
    #[arg(long, global = true, env = "LONGSHORE_LOG_FORMAT", value_enum, default_value_t)]
    pub(crate) log_format: LogFormat,
}

impl Global {
    /// The namespace that is meant.
    pub(crate) fn namespace(&self) -> Namespace {
        self.namespace.clone().unwrap_or_default()
    }
}

/// The form of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// One object a line
    Json,
}

/// The form of data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// The form of data that has more to tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum WideFormat {
    /// For people
    #[default]
    Table,
    /// For people with a wide terminal
    Wide,
    /// For programs
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Start a task: a job of one image
    Run(Box<task::Run>),
    /// Stop jobs (by name) or single tasks (by id)
    Stop(task::Stop),
    /// Have tasks begin anew: those of jobs (by name), or single ones (by id)
    Restart(task::Restart),
    /// List tasks
    Ps(task::Ps),
    /// Show how the cluster, a job or a task stands
    Status(task::Status),
    /// Print what a task, or every task of a job, writes
    Logs(task::Logs),
    /// Run a command in a task's container
    Exec(task::Exec),
    /// Copy files and folders out of a task's container, or into it
    Cp(reach::Cp),
    /// Reach a task's ports on this machine
    PortForward(reach::PortForward),
    /// Show what nodes and tasks use, live
    Top(cluster::Top),
    /// Jobs: plan, submit, list, look at, scale, roll back, stop
    #[command(subcommand)]
    Job(job::Job),
    /// Nodes: list, look at, cordon, drain, label, remove
    #[command(subcommand)]
    Node(node::Node),
    /// Say why a task is where it is, or what it waits for
    Explain(plan::Explain),
    /// Say what would happen if; nothing is changed
    #[command(subcommand, name = "whatif")]
    WhatIf(plan::WhatIf),
    /// Move tasks to where they cost less
    Rebalance(plan::Rebalance),
    /// Print what happened, and what happens
    Events(cluster::Events),
    /// Show what differs between two moments
    Diff(cluster::Diff),
    /// Write everything that the cluster is into a file
    Backup(cluster::Backup),
    /// Make a manager's data directory from a backup
    Restore(cluster::Restore),
    /// Look for what is wrong, and say what to do
    Doctor(cluster::Doctor),
    /// Try schedulers on machines and jobs in virtual time
    Simulate(Box<simulate::Simulate>),
    /// Run a manager
    Manager(program::Manager),
    /// Run a worker
    Worker(program::Worker),
    /// Run a whole cluster on this machine, for as long as it is wanted
    Dev(dev::Dev),
    /// NATS users and their credentials: make, add, revoke, list
    #[command(subcommand)]
    Auth(auth::Auth),
    /// Print a script that completes commands in a shell
    Completion(cluster::Completion),
}

impl Verb {
    /// Whether the verb is a program that stays, and logs what it does.
    pub(crate) fn stays(&self) -> bool {
        matches!(self, Self::Manager(_) | Self::Worker(_))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once(&"longshore").chain(words))
    }

    fn run(words: &[&str]) -> task::Run {
        match parse(&[&["run"], words].concat()).unwrap().verb {
            Verb::Run(run) => *run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_image_is_the_command_whatever_it_looks_like() {
        let run = run(&["-n", "2", "busybox:1", "-n", "3", "--help", "--", "x"]);
        assert_eq!(run.instances, 2);
        assert_eq!(run.words, ["busybox:1", "-n", "3", "--help", "--", "x"]);
    }

    #[test]
    fn an_option_before_the_image_must_be_known() {
        let error = parse(&["run", "--mighty", "busybox"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert_eq!(parse(&["run"]).unwrap_err().exit_code(), 2);
        assert_eq!(parse(&["run", "--help"]).unwrap_err().exit_code(), 0);
    }

    #[test]
    fn odd_quantities_name_the_option_and_the_cure() {
        for (words, option, cure) in [
            (["run", "--memory", "-1", "x"], "--memory", "write 256MiB"),
            (["run", "--memory", "10XB", "x"], "--memory", "write 256MiB"),
            (["run", "--cpus", "-0.5", "x"], "--cpus", "write cores as 0.5"),
            (["run", "-n", "-3", "x"], "--instances", "use 1 to 100000"),
            (["run", "-p", "99999:80", "x"], "--publish", "1 to 65535"),
            (["run", "--name", "a.b", "x"], "--name", "use a-z, 0-9 and '-'"),
            (["run", "--priority", "0", "x"], "--priority", "1..=100"),
            (["run", "--stop-grace", "-1s", "x"], "--stop-grace", "write 500ms"),
            (["run", "--constraint", "rack = r1", "x"], "--constraint", "label.KEY"),
            (["run", "--constraint", "label.rack ~ r1", "x"], "--constraint", "not-in"),
            (["run", "--constraint", "node.name matches (", "x"], "--constraint", "brackets"),
            (["run", "--affinity", "label.a = b@101", "x"], "--affinity", "1 to 100"),
            (["run", "--spread", "label.a:0", "x"], "--spread", "1 to 100"),
            (["run", "--spread", "", "x"], "--spread", "node.datacenter"),
            (["run", "-v", "./data:/data", "x"], "--mount", "SOURCE:TARGET[:ro]"),
            (["whatif", "add", "3xcpu=4", "-o=json"], "COUNTxSHAPE", "at least cpu and memory"),
            (["rebalance", "--gain", "0.5", "--plan"], "--gain", "1 or more"),
            (["simulate", "--load", "-1", "--compact"], "--load", "such as 0.8"),
            (["simulate", "--machines", "x", "--compact"], "--machines", "google-2011"),
        ] {
            let text = parse(&words).unwrap_err().to_string();
            assert!(text.contains(option) && text.contains(cure), "{words:?}: {text}");
        }
    }

    #[test]
    fn options_of_every_verb_may_stand_after_the_verb() {
        let cli = parse(&["ps", "--nats", "nats://a", "--namespace", "team-a"]).unwrap();
        assert_eq!(cli.global.nats.as_deref(), Some("nats://a"));
        assert_eq!(cli.global.namespace().as_str(), "team-a");
        assert_eq!(cli.global.timeout, Duration::from_secs(10));
    }
}
