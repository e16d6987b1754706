//! What happens when Consul goes, denies, or has very much.

use std::fs;
use std::time::{Duration, Instant};

use realmgate_control_plane::mesh::Wanted;
use realmgate_control_plane::mesh::catalog::Catalog;
use realmgate_control_plane::source::Health;
use realmgate_control_plane::source::consul::ConsulConfig;
use realmgate_tests::consul::{Config, Service, TwoDatacenters};
use realmgate_tests::load::watch::resident_kib;
use realmgate_tests::sockets::connections;
use realmgate_tests::{Consul, TestNet, parts, wait_until};
use serde_json::json;

use super::stage::{Following, SOON, config, leaves, lookup, lookups, until};

fn degraded(word: &'static str) -> impl FnMut(&Health) -> bool {
    move |health| matches!(health, Health::Degraded { reason } if reason.contains(word))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_outlives_consul_and_us() {
    let net = TestNet::new();
    let mut consul = Consul::start(net.dir(), Config::new("aws")).unwrap();
    consul.register(&Service::new("battle", "b1", net.at(9001)));
    consul.intention("edge", "battle", "allow");
    let battle = lookup("aws", "battle");
    let data = net.dir().join("data");
    let wanted = lookups([battle.clone()]);
    let following = Following::start(&consul, &data, wanted.clone());
    following.ok().await;
    let known = following.catalog("it is known", |catalog| catalog.instances[&battle].len() == 1).await;
    let saved = data.join("consul.json");
    wait_until("it is saved", SOON, || fs::read_to_string(&saved).is_ok_and(|text| text.contains("\"b1\"")));

    consul.kill9();
    following.health("it says so", degraded("cannot be reached")).await;
    let catalog = following.catalog("we know that it is gone", |c| c.unheard.contains("aws")).await;
    assert_eq!(catalog.instances, known.instances);
    assert_eq!(following.source.intentions().borrow().list.len(), 1);
    // Each part finds out by itself.
    wait_until("intentions are down, too", SOON, || {
        following.metric("realmgate_consul_up{part=\"intentions\"}") < 0.5
    });
    assert!(following.metric("realmgate_consul_request_errors_total{reason=\"unreachable\"}") > 0.5);

    // A restart of ours serves the same; one without a file waits.
    let restarted = Following::start(&consul, &data, wanted.clone());
    restarted.health("it serves what it knew", |health| matches!(health, Health::Degraded { .. })).await;
    assert_eq!(restarted.source.catalog().borrow().instances, known.instances);
    assert_eq!(restarted.source.intentions().borrow().list.len(), 1);
    // Nor does it lose what it knew before it knows the policy, where it need not ask which datacenter it is in.
    let config = ConsulConfig { datacenter: "aws".to_owned(), ..config(&consul, &data) };
    let early = Following::with(&config, Wanted::default());
    wait_until("it has asked for the catalog", SOON, || {
        early.shown("realmgate_consul_up{part=\"catalog aws\"}").is_some()
    });
    early.wanted.send_replace(wanted.clone());
    early.health("it serves what it knew", |health| matches!(health, Health::Degraded { .. })).await;
    assert_eq!(early.source.catalog().borrow().instances, known.instances);
    let empty = Following::start(&consul, &net.dir().join("empty"), wanted);
    assert_eq!(*empty.source.health().borrow(), Health::Starting);

    consul.restart().unwrap();
    consul.register(&Service::new("battle", "b2", net.at(9002)));
    for following in [&following, &restarted, &early, &empty] {
        following
            .catalog("it follows again", |catalog| {
                catalog.instances.get(&battle).is_some_and(|instances| instances.len() == 2)
            })
            .await;
        following.ok().await;
    }
    wait_until("intentions are up again", SOON, || {
        following.metric("realmgate_consul_up{part=\"intentions\"}") > 0.5
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datacenter_that_goes_keeps_its_instances_and_ours_go_on() {
    let net = TestNet::new();
    let mut both = TwoDatacenters::start(net.dir(), None).unwrap();
    both.azure.register(&Service::new("afar", "a1", net.at(9001)));
    let (here, there) = (lookup("aws", "near"), lookup("azure", "afar"));
    let following =
        Following::start(&both.aws, &net.dir().join("data"), lookups([here.clone(), there.clone()]));
    following.catalog("it is known", |c| c.instances.get(&there).is_some_and(|i| i.len() == 1)).await;
    both.azure.kill9();
    following.health("it says which", degraded("catalog azure")).await;
    let catalog = following.catalog("it is gone", |c| c.unheard.contains("azure")).await;
    assert_eq!(catalog.instances[&there].len(), 1);
    both.aws.register(&Service::new("near", "n1", net.at(9002)));
    following.catalog("ours goes on", |c| c.instances.get(&here).is_some_and(|i| i.len() == 1)).await;
    both.azure.restart().unwrap();
    following.catalog("it is back", |c| !c.unheard.contains("azure")).await;
    following.ok().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_rights_are_enough_and_less_is_named() {
    const MASTER: &str = "5a2e3f5c-0000-4000-8000-000000000001";
    let net = TestNet::new();
    let both = TwoDatacenters::start(net.dir(), Some(MASTER)).unwrap();
    let rules = fs::read_to_string(parts::workspace().join("consul/acl/realmgate.hcl")).unwrap();
    let token_file = net.dir().join("token");
    let token = both.aws.token("realmgate", &rules);
    fs::write(&token_file, &token).unwrap();
    both.aws.register(&Service::new("battle", "b1", net.at(9001)));
    both.azure.register(&Service::new("afar", "a1", net.at(9002)));
    both.aws.intention("realmgate-edge", "battle", "allow");
    both.aws.intention("*", "*", "deny");
    // A datacenter that does not know a new token yet shows it empty lists, which do not change when it does.
    let afar = format!("{}/v1/health/service/afar?dc=azure", both.aws.url());
    wait_until("the token is known in both datacenters", SOON, || {
        let answer = ureq::get(&afar).header("X-Consul-Token", &token).call().ok();
        let text = answer.and_then(|mut answer| answer.body_mut().read_to_string().ok());
        text.is_some_and(|text| text.contains("\"a1\""))
    });
    let mut wanted = lookups([lookup("aws", "battle"), lookup("azure", "afar")]);
    wanted.leaves = leaves(&["realmgate-edge"]).leaves;
    let config =
        ConsulConfig { token_file: Some(token_file.clone()), ..config(&both.aws, &net.dir().join("data")) };
    let following = Following::with(&config, wanted.clone());
    following.ok().await;
    following
        .catalog("both are seen", |c| {
            c.instances.len() == 2 && c.instances.values().all(|instances| instances.len() == 1)
        })
        .await;
    let intentions = following.source.intentions().borrow().clone();
    assert_eq!(intentions.list.len(), 2, "{intentions:?}");
    assert_eq!(intentions.default, realmgate_control_plane::model::Action::Deny);

    // One more leaf than there are rights for is refused by name; all else goes on.
    wanted.leaves.insert("other".to_owned());
    following.wanted.send_replace(wanted.clone());
    following.health("it is named", degraded("leaf other")).await;
    assert!(following.metric("realmgate_consul_request_errors_total{reason=\"denied\"}") > 0.5);
    assert!(following.source.identities().borrow().leaves.contains_key("realmgate-edge"));
    wanted.leaves.remove("other");
    following.wanted.send_replace(wanted);
    following.ok().await;

    // A token that is no longer one takes nothing away; the next one is taken up by itself.
    fs::write(&token_file, "5a2e3f5c-0000-4000-8000-00000000dead").unwrap();
    following.health("it is denied", degraded("ACL not found")).await;
    assert_eq!(following.source.catalog().borrow().instances.len(), 2);
    fs::remove_file(&token_file).unwrap();
    following.health("it is missed", degraded("cannot use")).await;
    fs::write(&token_file, MASTER).unwrap();
    following.ok().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_go_take_nothing_away() {
    let net = TestNet::new();
    let token = Some("5a2e3f5c-0000-4000-8000-000000000002".to_owned());
    let consul = Consul::start(net.dir(), Config { token, ..Config::new("aws") }).unwrap();
    let rules = fs::read_to_string(parts::workspace().join("consul/acl/realmgate.hcl")).unwrap();
    let token_file = net.dir().join("token");
    fs::write(&token_file, consul.token("realmgate", &rules)).unwrap();
    let battle = lookup("aws", "battle");
    let resolver = |name: &str| {
        consul.write_config(&json!({"Kind": "service-resolver", "Name": name, "ConnectTimeout": "3s"}));
    };
    consul.register(&Service::new("battle", "b1", net.at(9001)));
    consul.intention("edge", "battle", "allow");
    resolver("battle");
    let config = ConsulConfig { token_file: Some(token_file), ..config(&consul, &net.dir().join("data")) };
    let following = Following::with(&config, lookups([battle.clone()]));
    following.ok().await;
    let known = following.catalog("it is known", |c| c.instances[&battle].len() == 1).await;
    let intentions = following.source.intentions().borrow().clone();
    assert_eq!((intentions.list.len(), known.entries.len()), (1, 1));

    // From now on every list is empty, for Consul 1.8 without a word. Nothing else happens: it is found out all the same.
    consul.set_rights("realmgate", "agent_prefix \"\" { policy = \"read\" }");
    following.health("it is denied", degraded("the token may not read service `battle`")).await;
    // These are asked when they change. What was asked before is answered by the rights that there were then: the first change
    // may be told still.
    let (mut others, mut written) = (0, None::<Instant>);
    wait_until("each says so", SOON, || {
        if written.is_none_or(|written| written.elapsed() > Duration::from_secs(1)) {
            others += 1;
            consul.intention("edge", &format!("other-{others}"), "allow");
            resolver(&format!("other-{others}"));
            written = Some(Instant::now());
        }
        ["catalog aws", "intentions", "service-resolver"]
            .iter()
            .all(|part| following.shown(&format!("realmgate_consul_up{{part=\"{part}\"}}")) == Some(0.0))
    });
    assert!(following.metric("realmgate_consul_request_errors_total{reason=\"denied\"}") > 2.5);
    let now = following.source.catalog().borrow().clone();
    assert_eq!(now.instances, known.instances);
    assert_eq!(now.entries.get("battle"), known.entries.get("battle"));
    assert!(following.source.intentions().borrow().list.contains(&intentions.list[0]));
    // Whoever starts now knows nothing, which is not the same as none.
    let config = ConsulConfig { data_dir: net.dir().join("empty"), ..config };
    let fresh = Following::with(&config, lookups([battle.clone()]));
    wait_until("it is denied, too", SOON, || {
        fresh.metric("realmgate_consul_up{part=\"agent\"}") > 0.5
            && fresh.metric("realmgate_consul_request_errors_total{reason=\"denied\"}") > 2.5
    });
    assert_eq!(*fresh.source.health().borrow(), Health::Starting);
    let waits = fresh.source.waits().borrow().clone();
    assert!(waits.contains("the token may not read"), "{waits}");
    assert!(fresh.source.catalog().borrow().instances.is_empty());

    // A change is seen at once; without one it is asked for within 10 s.
    consul.set_rights("realmgate", &rules);
    consul.register(&Service::new("battle", "b2", net.at(9002)));
    for following in [&following, &fresh] {
        following.ok().await;
        let all = |c: &Catalog| {
            let instances = c.instances.get(&battle);
            instances.is_some_and(|instances| instances.len() == 2) && c.entries.len() == 1 + others
        };
        following.catalog("it is followed", all).await;
        until(following.source.intentions(), "they are followed", |all| all.list.len() == 1 + others).await;
    }
    // What is really gone goes.
    consul.deregister("b1");
    consul.deregister("b2");
    consul.delete_intention("edge", "battle");
    following.catalog("it is gone", |c| c.instances[&battle].is_empty()).await;
    until(following.source.intentions(), "it is gone", |all| all.list.len() == others).await;
    following.ok().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_services_take_a_few_connections() {
    const SERVICES: usize = 1000;
    let net = TestNet::new();
    let consul = Consul::start(net.dir(), Config::new("aws")).unwrap();
    // On a node of their own: an agent takes from its own node what it does not know.
    let ip = net.ip().to_string();
    consul.put("/v1/catalog/register", &json!({"Node": "many", "Address": ip}));
    for batch in (0..SERVICES).collect::<Vec<_>>().chunks(60) {
        let operation = |n: &usize| {
            json!({"Service": {"Verb": "set", "Node": "many", "Service": {
                "Service": format!("many-{n}"), "ID": format!("many-{n}"), "Address": ip, "Port": 9000}}})
        };
        consul.put("/v1/txn", &batch.iter().map(operation).collect());
    }
    let all = (0..SERVICES).map(|n| lookup("aws", &format!("many-{n}")));
    let resident = || resident_kib(std::process::id()).unwrap();
    let before = resident();
    let following = Following::start(&consul, &net.dir().join("data"), lookups(all));
    // No other test has this server.
    let held = || connections(std::process::id(), consul.http_address()).unwrap();
    let mut most = 0;
    let read = until(following.source.catalog(), "all are read", |catalog| {
        catalog.instances.values().filter(|instances| instances.len() == 1).count() == SERVICES
    });
    tokio::pin!(read);
    loop {
        most = most.max(held());
        tokio::select! {
            _ = &mut read => break,
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
    following.ok().await;
    most = most.max(held());
    assert!(most > 0 && most <= 40, "{most} connections");
    // Of the whole process, other tests in it too.
    let more = resident().saturating_sub(before);
    println!("{SERVICES} services take {more} KiB");
    assert!(more < 200 << 10, "{more} KiB");
    // One registration wakes one reading of all, which ends.
    consul.register(&Service::new("many-7", "second", net.at(9001)));
    following.catalog("the second is seen", |c| c.instances[&lookup("aws", "many-7")].len() == 2).await;
}
