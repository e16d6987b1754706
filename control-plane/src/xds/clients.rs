//! How many scopes one client has snapshots made for: each is compiled anew at every change, before others get theirs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Role, Scope, TooManyScopes};
use crate::connections::Source;

/// Scopes of edges that one address has: those of a whole site behind one address are a handful, by cell and listeners.
const MOST_EDGES: usize = 64;
/// Of sidecars, each of which is one: a site of hundreds of machines behind one address.
const MOST_SIDECARS: usize = 4_096;

/// The scopes of all clients. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clients(Arc<Mutex<HashMap<(Source, Role), OfClient>>>);

/// By scope, how many streams have it.
type OfClient = HashMap<Arc<Scope>, usize>;

/// A stream's use of a scope, until dropped.
#[derive(Debug)]
pub(crate) struct Use {
    clients: Clients,
    client: (Source, Role),
    scope: Arc<Scope>,
}

impl Clients {
    /// Counts a stream of this scope.
    pub(crate) fn enter(&self, source: Source, scope: &Arc<Scope>) -> Result<Use, TooManyScopes> {
        let most = match scope.role {
            Role::Edge => MOST_EDGES,
            Role::Sidecar => MOST_SIDECARS,
        };
        let client = (source, scope.role);
        let mut clients = self.lock();
        let scopes = clients.entry(client).or_default();
        if scopes.len() >= most && !scopes.contains_key(scope) {
            return Err(TooManyScopes { most, of: "of one address" });
        }
        *scopes.entry(Arc::clone(scope)).or_default() += 1;
        drop(clients);
        Ok(Use { clients: self.clone(), client, scope: Arc::clone(scope) })
    }

    /// Nothing panics with the lock held.
    fn lock(&self) -> MutexGuard<'_, HashMap<(Source, Role), OfClient>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut clients = self.clients.lock();
        let Some(scopes) = clients.get_mut(&self.client) else { return };
        if let Some(streams) = scopes.get_mut(&self.scope) {
            *streams -= 1;
            if *streams == 0 {
                scopes.remove(&self.scope);
            }
        }
        if scopes.is_empty() {
            clients.remove(&self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn an_address_has_so_many_scopes_and_any_number_of_proxies_of_each() {
        let clients = Clients::default();
        let from = |address: &str| Source::from(address.parse::<IpAddr>().unwrap());
        let scope = |cell: usize| Arc::new(Scope { cell: cell.to_string(), ..Scope::default() });
        let enter = |address, cell| clients.enter(from(address), &scope(cell));
        let mut uses: Vec<_> = (0..MOST_EDGES).map(|cell| enter("2001:db8::1", cell).unwrap()).collect();
        assert_eq!(
            enter("2001:db8::2", MOST_EDGES).unwrap_err(),
            TooManyScopes { most: 64, of: "of one address" }
        );
        let again: Vec<_> = (0..1000).map(|_| enter("2001:db8::3", 7).unwrap()).collect();
        assert!(enter("2001:db8:0:1::1", MOST_EDGES).is_ok(), "another address");
        let sidecar = Arc::new(Scope { role: Role::Sidecar, ..Scope::default() });
        assert!(clients.enter(from("2001:db8::1"), &sidecar).is_ok(), "another role");
        uses.remove(7);
        assert!(enter("2001:db8::2", MOST_EDGES).is_err(), "others have that scope");
        drop(again);
        assert!(enter("2001:db8::2", MOST_EDGES).is_ok());
        drop(uses);
        assert!(clients.lock().is_empty(), "who is gone leaves nothing behind");
    }
}
