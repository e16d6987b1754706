//! Silence, proved: something that must be answered is asked, and the answer is the next response.

use std::future::Future;
use std::panic::Location;

use super::client::Client;
use super::response::Response;
use super::wire::{Service, Variant};
use super::world::{FENCES, Kind};

impl Client<'_> {
    /// Shows that the server has nothing to say: what [`Self::until_fence`] gives is nothing.
    #[track_caller]
    pub fn fence(&mut self) -> impl Future<Output = ()> {
        let caller = Location::caller();
        async move {
            let came: Vec<_> = self.until_fence_of(caller).await.iter().map(Response::in_short).collect();
            assert!(came.is_empty(), "{caller}: silence was expected, not {came:?}");
        }
    }

    /// Accepts and gives what the server still has to say: asks for what must be answered (6, 10), which shows
    /// that everything sent before was taken in and answered. Not to be used while clusters wait for their
    /// acknowledgement, when repeated requests for endpoints have another meaning (8).
    #[track_caller]
    pub fn until_fence(&mut self) -> impl Future<Output = Vec<Response>> {
        self.until_fence_of(Location::caller())
    }

    async fn until_fence_of(&mut self, caller: &Location<'_>) -> Vec<Response> {
        let kind = match self.channel().service {
            Service::Aggregated => Kind::Endpoints,
            Service::Single(kind) => kind,
        };
        let whole = kind.is_whole() && self.channel().variant == Variant::Sotw;
        let before = self.of(kind).names.clone();
        let [first, _] = FENCES;
        let fence = if whole {
            let unused = FENCES.into_iter().find(|fence| !before.contains(*fence));
            unused.expect("a fence that was not used yet")
        } else {
            first
        };
        if self.channel().variant == Variant::Sotw && !whole {
            self.unsubscribe(kind, &[fence]).await;
        }
        // Names alone would end a legacy wildcard (7).
        let all = whole && before.is_empty();
        let names = ["*", fence];
        self.subscribe(kind, names.get(usize::from(!all)..).unwrap_or_default()).await;
        let mut came = Vec::new();
        loop {
            let response = self.receive(caller).await;
            let answer = response.kind == kind && response.has(fence);
            if answer && !whole {
                assert!(response.names().is_empty(), "{caller}: more than a fence: {}", response.in_short());
                self.of(kind).names.clone_from(&before);
            }
            self.ack(&response).await;
            if answer {
                return came;
            }
            came.push(response);
        }
    }
}
