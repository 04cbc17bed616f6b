//! Options of `longshore dev`.

use std::path::PathBuf;

use clap::Args;

use crate::parse;

/// `longshore dev`
#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// How many workers; they share this machine's capacity between them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) workers: u16,
    /// Where everything is kept, for the next start to go on with [default: a folder that is removed at the
    /// end]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Leave the containers running at the end (and the folder, for the next start to find them)
    #[arg(long)]
    pub(crate) keep: bool,
    /// Let tasks mount what is below this path of the machine (repeat for more) [default: nothing]
    #[arg(long, value_name = "PATH", value_parser = parse::lent_path)]
    pub(crate) allow_mount: Vec<String>,
    /// The port of the NATS server [default: the one of the last start in the folder, else any]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// The nats-server to start [default: that of the checkout, else the first on PATH]
    #[arg(long, value_name = "FILE", env = "LONGSHORE_NATS_SERVER")]
    pub(crate) nats_server: Option<PathBuf>,
    /// With --nats and --creds: the manager's credential file for the managers' account
    #[arg(long, value_name = "FILE", env = "LONGSHORE_CORE_CREDS")]
    pub(crate) core_creds: Option<PathBuf>,
}
