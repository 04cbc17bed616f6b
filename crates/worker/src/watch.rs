//! Whether the runtime answers, and what happens to containers.
//!
//! Events first, then the list: events are asked for from a moment before the runtime is declared up, so that
//! what happens between the two is seen twice rather than not at all. When they break off the runtime counts
//! as down until they are back, and everything is listed anew.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::stream::StreamExt;
use longshore_core::agent::Input;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::driver::Message;
use crate::runtime::{Runtime, RuntimeError};

/// How often the runtime is asked whether it is still there while no event comes.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// The first wait before the runtime is tried again; it doubles.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// The longest wait before the runtime is tried again.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(10);
/// How far back events are asked for, in seconds: more than the runtime's clock can be coarse.
const OVERLAP_S: u64 = 3;

/// Watches for ever.
pub(crate) async fn watch(runtime: Arc<dyn Runtime>, driver: mpsc::Sender<Message>) {
    let mut delay = RETRY_DELAY;
    let mut told = String::new();
    loop {
        let since_unix_s = unix_s().saturating_sub(OVERLAP_S);
        let error = match runtime.version().await {
            Ok(found) => {
                info!(version = found.version, "the container runtime answers");
                delay = RETRY_DELAY;
                told.clear();
                if driver.send(Message::RuntimeInfo(found)).await.is_err() {
                    return;
                }
                follow(&*runtime, since_unix_s, &driver).await
            }
            Err(error) => error,
        };
        let reason = error.to_string();
        // Said once for each reason: an absence may last for days.
        if reason != told {
            warn!("{reason}; trying again, and nothing is judged dead meanwhile");
            told.clone_from(&reason);
        }
        let down = Input::RuntimeDown { reason };
        if driver.send(Message::Input(down)).await.is_err() {
            return;
        }
        tokio::time::sleep(delay.mul_f64(rand::random_range(0.5..1.0))).await;
        delay = (delay * 2).min(RETRY_DELAY_MAX);
    }
}

/// Passes events on until they break off.
async fn follow(
    runtime: &dyn Runtime,
    since_unix_s: u64,
    driver: &mpsc::Sender<Message>,
) -> RuntimeError {
    let ended =
        || RuntimeError::Away("the container runtime has closed its stream of events".to_owned());
    let mut events = runtime.events(since_unix_s);
    if driver.send(Message::Input(Input::RuntimeUp)).await.is_err() {
        return ended();
    }
    loop {
        match tokio::time::timeout(PING_INTERVAL, events.next()).await {
            Ok(Some(Ok(event))) => {
                if driver.send(Message::Input(Input::Container(event))).await.is_err() {
                    return ended();
                }
            }
            Ok(Some(Err(error))) => return error,
            Ok(None) => return ended(),
            // Silence is usual; a daemon that hangs is silent too.
            Err(_) => {
                if let Err(error) = runtime.version().await {
                    return error;
                }
            }
        }
    }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
