//! Where players' listeners are reached, found by address: thousands of listeners meet thousands of endpoints.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::OwnListener;

/// Listeners by the addresses under which they are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnListeners {
    at: HashMap<SocketAddr, Vec<OwnListener>>,
    /// Those of every address of their machine, by port: whoever connects to loopback there reaches them.
    everywhere: HashMap<u16, Vec<OwnListener>>,
}

impl OwnListeners {
    /// Those that whoever connects to this address reaches, as far as addresses tell.
    pub fn reached(&self, ip: IpAddr, port: u16) -> impl Iterator<Item = &OwnListener> {
        let everywhere = self.everywhere.get(&port).filter(|_| ip.is_loopback());
        self.at.get(&SocketAddr::new(ip, port)).into_iter().chain(everywhere).flatten()
    }
}

impl FromIterator<OwnListener> for OwnListeners {
    fn from_iter<T: IntoIterator<Item = OwnListener>>(listeners: T) -> Self {
        let mut own = Self::default();
        for listener in listeners {
            let (ip, port) = (listener.at.ip().to_canonical(), listener.at.port());
            if ip.is_unspecified() {
                own.everywhere.entry(port).or_default().push(listener);
            } else {
                own.at.entry(SocketAddr::new(ip, port)).or_default().push(listener);
            }
        }
        own
    }
}
