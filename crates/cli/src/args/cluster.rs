//! Options of the verbs about the cluster as a whole.

use clap::Args;
use clap_complete::Shell;
use longshore_proto::api::PAGE_MAX;
use longshore_proto::name::JobName;

use super::Format;

/// `longshore events`
#[derive(Debug, Args)]
#[command(after_help = "Events of the nodes and of the cluster belong to every namespace.")]
pub(crate) struct Events {
    /// Go on with what is yet to happen
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only those of this job
    #[arg(long, value_name = "NAME")]
    pub(crate) job: Option<JobName>,
    /// Those of every namespace
    #[arg(short = 'A', long, conflicts_with = "job")]
    pub(crate) all_namespaces: bool,
    /// How many of the past
    #[arg(
        short = 'n', long, value_name = "COUNT", default_value_t = 50,
        value_parser = clap::value_parser!(u32).range(0..=i64::from(PAGE_MAX))
    )]
    pub(crate) number: u32,
    /// The form: a line each, whichever
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `longshore doctor`
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The form of the findings
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `longshore completion`
#[derive(Debug, Args)]
#[command(
    after_help = "For bash: longshore completion bash > ~/.local/share/bash-completion/completions/longshore"
)]
pub(crate) struct Completion {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}
