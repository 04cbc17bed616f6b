//! Every verb, one file per noun.

pub(crate) mod auth;
pub(crate) mod backup;
pub(crate) mod completion;
pub(crate) mod cp;
pub(crate) mod dev;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod history;
pub(crate) mod job;
pub(crate) mod logs;
pub(crate) mod manager;
pub(crate) mod node;
pub(crate) mod plan;
pub(crate) mod port_forward;
pub(crate) mod revise;
pub(crate) mod run;
pub(crate) mod simulate;
pub(crate) mod status;
pub(crate) mod task;
pub(crate) mod top;
pub(crate) mod worker;

use crate::args::{Cli, Verb, job::Job, node::Node};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::render::Printer;

/// Does what was asked.
pub(crate) async fn run(cli: Cli, printer: Printer) -> Result<Exit, Failure> {
    let global = &cli.global;
    let client = || Client::connect(global, printer);
    match cli.verb {
        Verb::Run(wish) => Box::pin(run::run(global, *wish, printer)).await,
        Verb::Stop(wish) => task::stop(&client().await?, &wish, printer).await,
        Verb::Restart(wish) => revise::restart(&client().await?, &wish, printer).await,
        Verb::Ps(wish) => task::list(&client().await?, wish, printer).await,
        Verb::Status(wish) => status::run(&client().await?, &wish, printer).await,
        Verb::Logs(wish) => Box::pin(logs::run(&client().await?, &wish, printer)).await,
        Verb::Exec(wish) => Box::pin(exec::run(&client().await?, &wish, printer)).await,
        Verb::Top(wish) => Box::pin(top::run(&client().await?, &wish, printer)).await,
        Verb::Cp(wish) => Box::pin(cp::run(&client().await?, &wish, printer)).await,
        Verb::PortForward(wish) => {
            Box::pin(port_forward::run(&client().await?, &wish, printer)).await
        }
        Verb::Job(Job::Submit(wish)) => Box::pin(job::submit(global, &wish, printer)).await,
        Verb::Job(Job::Ls(wish)) => job::list(&client().await?, &wish, printer).await,
        Verb::Job(Job::Status(wish)) => job::status(&client().await?, &wish, printer).await,
        Verb::Job(Job::Plan(wish)) => Box::pin(history::plan(global, &wish, printer)).await,
        Verb::Job(Job::Scale(wish)) => revise::scale(&client().await?, &wish, printer).await,
        Verb::Job(Job::History(wish)) => {
            Box::pin(history::run(&client().await?, &wish, printer)).await
        }
        Verb::Job(Job::RollBack(wish)) => revise::roll_back(&client().await?, &wish, printer).await,
        Verb::Job(Job::Stop(wish)) => job::stop(&client().await?, &wish, printer).await,
        Verb::Node(Node::Ls(wish)) => node::list(&client().await?, &wish, printer).await,
        Verb::Node(Node::Status(wish)) => node::status(&client().await?, &wish, printer).await,
        Verb::Node(Node::Cordon(wish)) => node::cordon(&client().await?, &wish, printer).await,
        Verb::Node(Node::Uncordon(wish)) => node::uncordon(&client().await?, &wish, printer).await,
        Verb::Node(Node::Drain(wish)) => {
            Box::pin(node::drain::run(&client().await?, &wish, printer)).await
        }
        Verb::Node(Node::Label(wish)) => node::label(&client().await?, wish, printer).await,
        Verb::Node(Node::ConfirmLost(wish)) => {
            node::confirm_lost(&client().await?, &wish, printer).await
        }
        Verb::Node(Node::Rm(wish)) => node::remove(&client().await?, &wish, printer).await,
        Verb::Explain(wish) => plan::explain(&client().await?, &wish, printer).await,
        Verb::WhatIf(wish) => Box::pin(plan::whatif(global, wish, printer)).await,
        Verb::Rebalance(wish) => plan::rebalance(&client().await?, &wish, printer).await,
        Verb::Events(wish) => Box::pin(events::run(&client().await?, &wish, printer)).await,
        Verb::Diff(wish) => Box::pin(diff::run(&client().await?, &wish, printer)).await,
        Verb::Backup(wish) => Box::pin(backup::make(&client().await?, &wish, printer)).await,
        Verb::Restore(wish) => backup::restore(&wish, printer),
        Verb::Doctor(wish) => Box::pin(doctor::run(global, &wish, printer)).await,
        Verb::Simulate(wish) => simulate::run(&wish, printer),
        Verb::Manager(wish) => Box::pin(manager::run(global, wish)).await,
        Verb::Worker(wish) => Box::pin(worker::run(global, wish)).await,
        Verb::Dev(wish) => Box::pin(dev::run(global, wish, printer)).await,
        Verb::Auth(wish) => auth::run(global, wish, printer),
        Verb::Completion(wish) => completion::run(&wish, printer),
    }
}
