//! Whether the silence of nodes is this manager's own: its connection is broken, or was a moment ago, or it refused
//! what arrived because the log did not answer.

use crate::cluster::Input;

/// From so long on, an append that has no outcome makes the manager refuse what arrives, in milliseconds.
pub const APPEND_PATIENCE_MS: u64 = 2_000;

/// What a leader has heard of its own connection.
#[derive(Debug, Clone)]
pub struct Hearing {
    connected: bool,
    connections: u64,
    was_deaf: bool,
}

impl Hearing {
    /// Begins with the reign; `connections` counts how often the connection was made.
    pub fn new(connections: u64) -> Self {
        Self { connected: true, connections, was_deaf: false }
    }

    /// What arrived was refused, unheard.
    pub fn refused(&mut self) {
        self.was_deaf = true;
    }

    /// Looks at the connection. A break that came and went while a record was on its way is one all the same: the
    /// nodes' silence during it was this side's.
    pub fn look(&mut self, connected: bool, connections: u64) -> Option<Input> {
        let was_cut_off = connected && (self.was_deaf || connections != self.connections);
        if connected == self.connected && !was_cut_off {
            return None;
        }
        *self = Self { connected, connections, was_deaf: false };
        Some(if connected { Input::BusBack } else { Input::BusLost })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_break_is_noticed_even_one_that_nobody_looked_at() {
        let mut hearing = Hearing::new(1);
        assert_eq!(hearing.look(true, 1), None);
        assert_eq!(hearing.look(false, 1), Some(Input::BusLost));
        assert_eq!(hearing.look(false, 1), None);
        assert_eq!(hearing.look(true, 2), Some(Input::BusBack));
        assert_eq!(hearing.look(true, 3), Some(Input::BusBack), "broken and back in between");
        hearing.refused();
        assert_eq!(hearing.look(true, 3), Some(Input::BusBack));
        assert_eq!(hearing.look(true, 3), None);
    }
}
