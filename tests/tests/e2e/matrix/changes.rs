//! Routine changes: each brings what changed and no more, in the order of make before break, and is accepted.

use std::time::Instant;

use realmgate_tests::conformance::{Kind, Variant};
use realmgate_tests::tap::Said;

use super::{Day, LAZY, NO_STALL, SECOND, THIRD, position, response, told};
use crate::cast::{game, lands, until_lands};

pub(super) async fn all(day: &mut Day) {
    endpoints_move(day).await;
    a_world_comes(day).await;
    a_cluster_changes(day).await;
    a_world_goes(day).await;
    a_listener_comes_moves_and_goes(day).await;
}

/// Endpoints alone are sent, and of one cluster.
async fn endpoints_move(day: &mut Day) {
    day.policy.worlds.insert(2, (2, 100));
    let said = day.apply("endpoints move");
    assert_eq!(told(&said), ["eds world-2"]);
    day.reaches(2, 2).await;
}

/// (22) The filter names the world once its cluster and endpoints are accepted.
async fn a_world_comes(day: &mut Day) {
    day.policy.worlds.insert(3, (2, 100));
    let said = day.apply("a world comes");
    assert_eq!(told(&said), [day.clusters("world-3"), "eds world-3".into(), "ecds realmgate/edge".into()]);
    let filter = position(&said, |said| response(said, Kind::Extension));
    for kind in [Kind::Cluster, Kind::Endpoints] {
        let sent = said.iter().find(|said| response(said, kind)).unwrap();
        assert!(position(&said, |said| said.accepts(sent)) < filter, "the filter did not wait for {kind}");
    }
    day.reaches(3, 2).await;
}

/// (14) Endpoints follow a cluster before it is accepted, which Envoy keeps back until then. (8) In state of the
/// world it asks for them by repeating itself.
async fn a_cluster_changes(day: &mut Day) {
    day.policy.worlds.insert(2, (2, 200));
    let said = day.apply("a cluster changes");
    let [clusters, endpoints, ..] = &*told(&said) else { panic!("{said:?}") };
    assert_eq!([clusters, endpoints], [&day.clusters("world-2"), "eds world-2"]);
    let [sent, followed] =
        [Kind::Cluster, Kind::Endpoints].map(|kind| position(&said, |said| response(said, kind)));
    let accepted = position(&said, |answer| answer.accepts(&said[sent]));
    assert!(sent < followed && followed < accepted);
    let took = said[accepted].at - said[sent].at;
    println!("   a changed cluster is accepted after {took:?}");
    assert!(took < NO_STALL, "{took:?}");
    let repeated = |request: &Said| {
        request.by_proxy && request.kind == Kind::Endpoints && !request.accepts(&said[followed])
    };
    assert_eq!(said.iter().any(repeated), day.variant == Variant::Sotw, "(8)");
    day.reaches(2, 2).await;
}

/// (22) The cluster goes once the filter that does not name it is accepted.
async fn a_world_goes(day: &mut Day) {
    day.policy.worlds.remove(&3);
    let said = day.apply("a world goes");
    let gone = if day.variant == Variant::Delta { "cds -world-3" } else { "cds world-1 world-2" };
    assert_eq!(told(&said), ["ecds realmgate/edge", gone]);
    let filter = said.iter().find(|said| response(said, Kind::Extension)).unwrap();
    let gone = position(&said, |said| response(said, Kind::Cluster));
    assert!(position(&said, |said| said.accepts(filter)) < gone);
    assert!(lands(day.stage.players(), game(3, 1)).await.is_err());
}

/// (16) With its listener a filter goes by itself: nobody takes its configuration away.
async fn a_listener_comes_moves_and_goes(day: &mut Day) {
    for (what, port) in [("a listener comes", SECOND), ("a listener moves", THIRD)] {
        day.policy.listeners.insert("second", port);
        let said = day.apply(what);
        let [listeners, ..] = &*told(&said) else { panic!("{said:?}") };
        assert_eq!(*listeners, day.listeners("second"));
        let name = day.servers[2].name();
        until_lands(day.stage.net.at(port), game(2, 1), Some(name), Instant::now()).await;
    }
    day.policy.listeners.remove("second");
    let said = day.apply("a listener goes");
    assert_eq!(told(&said), [if day.variant == Variant::Delta { "lds -second" } else { "lds edge" }]);
}

/// By delta a world's cluster comes with its first player, who is not kept waiting for long; in state of the world
/// all are there before.
pub(super) async fn clusters_come_on_demand(day: &mut Day) {
    const NEW: &str = "world-4";
    let mark = day.tap.mark();
    day.policy.listeners = [("lazy", LAZY)].into();
    day.policy.on_demand = true;
    day.policy.worlds.insert(4, (0, 100));
    day.apply("clusters come on demand");
    let names_it = |said: &Said| said.kind == Kind::Cluster && said.names.iter().any(|name| name == NEW);
    assert_eq!(day.was_said(mark, names_it), day.variant == Variant::Sotw);
    let mark = day.tap.mark();
    let edge = day.stage.net.at(LAZY);
    let took = until_lands(edge, game(4, 1), Some(day.servers[0].name()), Instant::now()).await;
    day.heard("the first player", mark);
    println!("   the first player is there after {took:?}");
    assert!(took < NO_STALL, "{took:?}");
    let asked = day.was_said(mark, |said| said.by_proxy && names_it(said));
    assert_eq!(asked, day.variant == Variant::Delta);
}
