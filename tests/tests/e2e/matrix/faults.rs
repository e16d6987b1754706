//! What goes wrong: a control plane that dies, a filter module that is none, an address that is taken.

use std::net::TcpListener;
use std::time::Instant;

use realmgate_tests::conformance::{Kind, Variant};
use realmgate_tests::{modules, wait_until};

use super::{Day, SECOND, THIRD, response, told};
use crate::cast::{LIMIT, game, until_lands};

pub(super) async fn all(day: &mut Day) {
    the_control_plane_restarts_with_a_change(day).await;
    a_module_that_is_none_is_refused(day).await;
    a_listener_is_refused_and_the_others_are_there(day).await;
}

/// (13) An Envoy that comes back gets what changed meanwhile and no more; (3) it says what it has.
async fn the_control_plane_restarts_with_a_change(day: &mut Day) {
    let mark = day.tap.mark();
    day.stage.control_plane.kill9();
    day.reaches(2, 2).await;
    day.policy.worlds.insert(2, (1, 200));
    day.restart();
    day.reaches(2, 1).await;
    // Filters are asked for last. By delta there is nothing to say of them; that it was not said shows later.
    wait_until("filters were compared", LIMIT, || {
        day.was_said(mark, |said| {
            said.by_proxy
                && said.kind == Kind::Extension
                && (day.variant == Variant::Delta || !said.nonce.is_empty())
        })
    });
    day.wait_sync("synced");
    day.policy.worlds.insert(2, (2, 200));
    day.apply("a change after it");
    let said = day.heard("the control plane restarted with other endpoints", mark);
    for kind in Kind::ALL {
        let first = said.iter().find(|said| said.by_proxy && said.kind == kind).unwrap();
        assert_eq!(first.nonce, "");
        let says =
            if day.variant == Variant::Delta { !first.has.is_empty() } else { !first.version.is_empty() };
        assert!(says, "{kind}: it does not say what it has");
    }
    if day.variant == Variant::Delta {
        assert_eq!(told(&said), ["eds world-2", "eds world-2"]);
    } else {
        // A version of endpoints or filters does not say which of them it is about.
        assert_eq!(
            told(&said),
            ["eds world-1 world-2", "ecds realmgate/edge realmgate/edge/connections", "eds world-2"]
        );
    }
}

/// (25) The old filter serves on, new players included; (19) the bad one is tried again, as another payload and not at once.
async fn a_module_that_is_none_is_refused(day: &mut Day) {
    let mark = day.tap.mark();
    day.deploy(&modules::refusing());
    day.wait_sync("rejecting");
    let rejections = day.rejections();
    println!("   {rejections:?}");
    let [(kind, resource, words)] = &*rejections else { panic!("{rejections:?}") };
    assert_eq!([kind, resource], ["ecds", "realmgate/edge"]);
    assert!(words.to_lowercase().contains("wasm"), "{words}");
    day.policy.worlds.insert(2, (1, 200));
    day.apply("the rest goes on");
    day.reaches(2, 1).await;
    day.reaches(1, 0).await;
    let sent = day.tap.since(mark).iter().filter(|said| response(said, Kind::Extension)).count();
    assert!((2..20).contains(&sent), "what was refused was sent {sent} times");
    day.deploy(&modules::good());
    day.wait_sync("synced");
    day.heard("a bad module comes and goes", mark);
    day.reaches(2, 1).await;
}

/// (18) What is good in a refused response went live, and the refusal is of one resource; (19) that is sent once.
async fn a_listener_is_refused_and_the_others_are_there(day: &mut Day) {
    let mark = day.tap.mark();
    let (good, taken, other) = (day.stage.net.at(SECOND), day.stage.net.at(THIRD), THIRD + 1);
    let squatter = TcpListener::bind(taken).unwrap();
    // Control planes say good ones again. That must not be what brings them.
    day.tap.swallow_after_refusals(true);
    day.policy.listeners.extend([("good", SECOND), ("taken", THIRD)]);
    let (status, body) =
        day.stage.control_plane.put_policy_with("", &day.policy.text(&day.stage.net, &day.servers));
    assert!((200..300).contains(&status), "{body}");
    // Of what is swallowed the acknowledgement is awaited for ever: the state stays `pending`.
    wait_until("a listener is refused", LIMIT, || !day.rejections().is_empty());
    until_lands(good, game(1, 1), Some(day.servers[0].name()), Instant::now()).await;
    let said = day.heard("a listener is refused", mark);
    let refused: Vec<_> = said.iter().filter(|said| response(said, Kind::Listener)).collect();
    let [refused] = &*refused else { panic!("{refused:?}") };
    assert!(["good", "taken"].iter().all(|name| refused.names.iter().any(|n| n == name)));
    let is_refused = |day: &Day| {
        let rejections = day.rejections();
        println!("   {rejections:?}");
        let [(kind, resource, words)] = &*rejections else { panic!("{rejections:?}") };
        assert_eq!([kind, resource], ["lds", "taken"]);
        assert!(words.contains("Address already in use"), "{words}");
    };
    is_refused(day);

    day.tap.swallow_after_refusals(false);
    let mark = day.tap.mark();
    day.stage.control_plane.kill9();
    day.policy.worlds.insert(2, (0, 200));
    day.restart();
    day.wait_sync("rejecting");
    day.reaches(2, 0).await;
    wait_until("the good one is accepted", LIMIT, || {
        day.proxy()["types"].as_array().unwrap().iter().all(|of| of["pending"] == 0)
    });
    is_refused(day);
    day.policy.worlds.insert(2, (2, 200));
    day.apply("the rest goes on");
    day.reaches(2, 2).await;
    let said = day.heard("with another control plane", mark);
    let sent =
        said.iter().filter(|said| response(said, Kind::Listener) && said.names.iter().any(|n| n == "taken"));
    assert_eq!(sent.count(), 1, "what was refused was sent again");

    day.policy.listeners.insert("taken", other);
    day.apply("the cure");
    day.wait_sync("synced");
    assert_eq!(day.rejections(), []);
    until_lands(day.stage.net.at(other), game(1, 1), Some(day.servers[0].name()), Instant::now()).await;
    drop(squatter);
}
