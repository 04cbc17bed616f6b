//! The terminal of `top`: what it was before comes back, whether this ends by a key, a signal, an error or a panic.

use std::time::Duration;

use longshore_proto::api::{ClusterView, NodeView};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::model::{Key, Model, Wish};
use super::view::view;
use super::{Source, WATCH_INTERVAL};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::signal::stop_token;
use crate::terminal;

/// How often keys are looked for: the program ends at most so much later than its screen.
const KEYS_INTERVAL: Duration = Duration::from_millis(100);

/// What is on the screen changes at most so often.
const DRAW_INTERVAL: Duration = Duration::from_millis(100);

/// The terminal, until this goes. A panic restores it first, so that its message can be read.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        // Where even this fails the terminal is gone.
        let _ = ratatui::try_restore();
    }
}

pub(super) async fn run(
    client: &Client,
    mut source: Source,
    mut model: Model,
    interval: Duration,
) -> Result<Exit, Failure> {
    if !terminal::is_there() {
        return Err(Failure::new("there is no terminal here to draw on")
            .hint("`longshore top --once` prints the figures, and `-o json` does it for programs")
            .exit(Exit::Usage));
    }
    let problem = |error: std::io::Error| Failure::new("cannot use this terminal").cause(&error);
    let stop = stop_token()?;
    // Installs a hook as well that restores the terminal before a panic is told.
    let mut terminal = ratatui::try_init().map_err(problem)?;
    let _restored = Restored;
    let mut keys = keys();
    let mut listed = lists(client.clone(), interval);
    let mut watch = tokio::time::interval(WATCH_INTERVAL);
    let mut draw = tokio::time::interval(DRAW_INTERVAL);
    for ticks in [&mut watch, &mut draw] {
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    let mut is_stale = true;
    let mut chosen = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(Exit::Interrupted),
            key = keys.recv() => {
                let Some(key) = key else { return Ok(Exit::Done) };
                if key.is_some_and(|key| model.key(key) == Wish::Leave) {
                    return Ok(Exit::Done);
                }
                is_stale = true;
            }
            heard = source.next() => {
                let Some((node, figures)) = heard else {
                    return Err(Failure::new("the connection to NATS was closed"));
                };
                let now_ms = source.now_ms();
                model.heard(node, figures, now_ms);
                is_stale = true;
            }
            Some(answer) = listed.recv() => {
                match answer {
                    Ok((cluster, nodes)) => model.listed(cluster, nodes),
                    Err(problem) => model.problem = Some(problem),
                }
                is_stale = true;
            }
            _ = watch.tick() => {
                model.expire(source.now_ms());
                source.watch(interval, &model).await?;
            }
            _ = draw.tick(), if is_stale => {
                terminal.draw(|frame| view(&model, frame)).map_err(problem)?;
                is_stale = false;
                // Another node's tasks are wanted: at once, where they do not come anyway.
                let now = model.chosen_node();
                if now != chosen {
                    chosen = now;
                    source.watch(interval, &model).await?;
                }
            }
        }
    }
}

/// What the manager says, every so often.
fn lists(
    client: Client,
    interval: Duration,
) -> mpsc::Receiver<Result<(ClusterView, Vec<NodeView>), String>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let asked = async {
                Ok::<_, longshore_bus::AskError>((client.cluster().await?, client.nodes().await?))
            };
            let answer = asked.await.map_err(|error| error.to_string());
            if sender.send(answer).await.is_err() {
                return;
            }
            tokio::time::sleep(interval.max(Duration::from_secs(1))).await;
        }
    });
    receiver
}

/// What is typed; `None` for what only asks to draw anew. Ends when nothing more can be typed.
fn keys() -> mpsc::Receiver<Option<Key>> {
    let (sender, receiver) = mpsc::channel(16);
    // A thread of its own: reading a terminal waits.
    std::thread::spawn(move || {
        while !sender.is_closed() {
            let event = match event::poll(KEYS_INTERVAL) {
                Ok(true) => event::read(),
                Ok(false) => continue,
                Err(error) => Err(error),
            };
            let key = match event {
                Ok(Event::Key(key)) if key.kind == KeyEventKind::Release => continue,
                Ok(Event::Key(key)) => match meaning(key) {
                    Some(key) => Some(key),
                    None => continue,
                },
                Ok(Event::Resize(..)) => None,
                Ok(_) => continue,
                Err(_) => return,
            };
            if sender.blocking_send(key).is_err() {
                return;
            }
        }
    });
    receiver
}

fn meaning(key: KeyEvent) -> Option<Key> {
    let has_control = key.modifiers.contains(KeyModifiers::CONTROL);
    Some(match key.code {
        KeyCode::Char('c') if has_control => Key::Interrupt,
        KeyCode::Char(letter) if !has_control => Key::Character(letter),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Tab => Key::Tab,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        _ => return None,
    })
}
