//! Ports of loopback for the servers that are measured and tested.

use std::net::TcpListener;

use longshore_core::agent::PORT_RANGE_USUAL;

/// A port of loopback that nobody has just now, and that no client takes meanwhile.
pub fn free_port() -> u16 {
    loop {
        let port = rand::random_range(PORT_RANGE_USUAL);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
