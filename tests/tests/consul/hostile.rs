//! A Consul that says what no Consul says: it is named and counted, and takes nothing away.

mod script;

use std::fs;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use realmgate_control_plane::mesh::Wanted;
use realmgate_control_plane::model::Action;
use realmgate_control_plane::source::Health;
use realmgate_control_plane::source::consul::ConsulConfig;
use realmgate_tests::consul::Config;
use realmgate_tests::{Consul, Stopwatch, TestNet, wait_until};
use serde_json::{Value, json};

use self::script::{Reply, Script};
use super::stage::{Following, SOON, config, lookup, lookups, until};

const DAY: Duration = Duration::from_hours(24);

fn says(word: &str) -> impl FnMut(&Health) -> bool {
    let word = word.to_owned();
    move |health| matches!(health, Health::Degraded { reason } if reason.contains(&word))
}

/// A certificate with this id that ends so long after now, and its key.
fn signed(uri: &str, until: SystemTime) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    (params.not_before, params.not_after) = ((until - 3 * DAY).into(), until.into());
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn leaf(trust_domain: &str, until: SystemTime) -> Value {
    leaf_of("edge", trust_domain, until)
}

fn leaf_of(service: &str, trust_domain: &str, until: SystemTime) -> Value {
    let uri = format!("spiffe://{trust_domain}/ns/default/dc/aws/svc/{service}");
    let (certificate, key) = signed(&uri, until);
    json!({"CertPEM": certificate, "PrivateKeyPEM": key, "ServiceURI": uri})
}

fn roots(until: SystemTime) -> Value {
    let (certificate, _) = signed("spiffe://d.consul", until);
    json!({"TrustDomain": "d.consul", "Roots": [{"RootCert": certificate, "Active": true}]})
}

const BATTLE: &str = "/v1/health/service/battle";
const INTENTIONS: &str = "/v1/connect/intentions";
const FILTERED: &str = "X-Consul-Results-Filtered-By-ACLs: true";
const LEAVES: &str = "/v1/agent/connect/ca/leaf/";
const LEAF: &str = "/v1/agent/connect/ca/leaf/edge";
const RESOLVERS: &str = "/v1/config/service-resolver";
const ROOTS: &str = "/v1/connect/ca/roots";

/// All is well.
async fn well(net: &TestNet) -> Script {
    let script = Script::start(net.at(18_500)).await;
    let tomorrow = SystemTime::now() + DAY;
    let instance = json!({"Node": {"Node": "n1", "Address": "10.0.0.1"},
        "Service": {"ID": "b1", "Service": "battle", "Port": 9000, "Weights": {"Passing": 1, "Warning": 1}}});
    for (path, answer) in [
        ("/v1/agent/self", json!({"Config": {"Datacenter": "aws"}})),
        ("/v1/catalog/datacenters", json!(["aws"])),
        ("/v1/coordinate/datacenters", json!([])),
        ("/v1/catalog/services", json!({"consul": []})),
        ("/v1/health/state/any", json!([])),
        (BATTLE, json!([instance])),
        ("/v1/config", json!([])),
        (RESOLVERS, json!([{"Kind": "service-resolver", "Name": "battle", "Subsets": {"v1": {}}}])),
        (INTENTIONS, json!([{"SourceName": "edge", "DestinationName": "battle", "Action": "allow"}])),
        ("/v1/connect/intentions/check", json!({"Allowed": false})),
        ("/v1/internal/acl/authorize", json!([{"Allow": true}, {"Allow": true}])),
        (ROOTS, roots(tomorrow)),
        (LEAF, leaf("d.consul", tomorrow)),
    ] {
        script.set(path, Reply::Json(answer));
    }
    script
}

fn follow(script: &Script, net: &TestNet) -> Following {
    let mut wanted = lookups([lookup("aws", "battle")]);
    wanted.leaves.insert("edge".to_owned());
    Following::with(&script_config(script, net), wanted)
}

fn script_config(script: &Script, net: &TestNet) -> ConsulConfig {
    ConsulConfig {
        address: script.url(),
        token_file: None,
        ca_file: None,
        datacenter: String::new(),
        data_dir: net.dir().join("data"),
    }
}

fn failures(following: &Following, reason: &str) -> f64 {
    following.metric(&format!("realmgate_consul_request_errors_total{{reason=\"{reason}\"}}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_read_is_named_and_counted_and_takes_nothing_away() {
    let net = TestNet::new();
    let script = well(&net).await;
    let following = follow(&script, &net);
    following.ok().await;
    let catalog = following.source.catalog().borrow().clone();
    assert_eq!(catalog.instances[&lookup("aws", "battle")].len(), 1);
    assert!(catalog.entries["battle"].resolver.is_some());
    let intentions = following.source.intentions().borrow().clone();
    assert_eq!((intentions.list.len(), intentions.default), (1, Action::Deny));
    let identities = following.source.identities().borrow().clone();

    for (path, reply, reason) in [
        ("/v1/health/state/any", Reply::Text("[{"), "malformed"),
        ("/v1/health/state/any", Reply::Json(json!({"not": "a list"})), "malformed"),
        (BATTLE, Reply::Json(json!([{"Node": 7}])), "malformed"),
        (RESOLVERS, Reply::Text("<html>"), "malformed"),
        (INTENTIONS, Reply::Json(json!([{"SourceName": 1}])), "malformed"),
        (INTENTIONS, Reply::Endless, "oversized"),
        (BATTLE, Reply::Headed(FILTERED, json!([])), "denied"),
        (INTENTIONS, Reply::Headed(FILTERED, json!([])), "denied"),
        (RESOLVERS, Reply::Headed(FILTERED, json!([])), "denied"),
        (INTENTIONS, Reply::Raw(b"SSH-2.0-OpenSSH\r\n\r\n"), "unreachable"),
        (ROOTS, Reply::Json(json!({"TrustDomain": "d.consul", "Roots": []})), "malformed"),
        (ROOTS, Reply::Json(roots(SystemTime::now() - Duration::from_secs(5))), "certificate"),
    ] {
        let before = failures(&following, reason);
        let good = script.set(path, reply).unwrap();
        // What breaks before there is an answer has no path.
        let named = if reason == "unreachable" { "intentions" } else { path };
        following.health(&format!("{path} is {reason}"), says(named)).await;
        assert!(failures(&following, reason) > before, "{path} is not counted as {reason}");
        script.set(path, good);
        following.ok().await;
        assert_eq!(following.source.catalog().borrow().instances, catalog.instances, "{path} {reason}");
        assert_eq!(following.source.catalog().borrow().entries, catalog.entries, "{path} {reason}");
        assert_eq!(*following.source.intentions().borrow(), intentions, "{path} {reason}");
        assert_eq!(*following.source.identities().borrow(), identities, "{path} {reason}");
    }

    // Since 1.9 a header tells what holds without an intention, whatever `check` says of it.
    for (header, check, default) in [
        ("X-Consul-Default-ACL-Policy: allow", false, Action::Allow),
        ("X-Consul-Default-ACL-Policy: deny", true, Action::Deny),
    ] {
        script.set("/v1/connect/intentions/check", Reply::Json(json!({"Allowed": check})));
        script.set(INTENTIONS, Reply::Headed(header, json!([])));
        until(following.source.intentions(), header, |all| all.default == default).await;
    }
    assert!(
        following.source.intentions().borrow().list.is_empty(),
        "it is allowed to see that there are none"
    );

    // One bad entry keeps its last good value and harms no other.
    script.set(
        RESOLVERS,
        Reply::Json(json!([
            {"Kind": "service-resolver", "Name": "battle", "Subsets": 7},
            {"Kind": "service-resolver", "Name": "chat", "DefaultSubset": "none"},
            {"Kind": "service-resolver", "Name": "lobby"},
        ])),
    );
    let now = following.catalog("the good one is there", |all| all.entries.contains_key("lobby")).await;
    assert_eq!(now.entries["battle"], catalog.entries["battle"]);
    assert!(!now.entries.contains_key("chat"));
    wait_until("both are counted", SOON, || {
        following.metric("realmgate_consul_refusals_total{what=\"entry\"}") > 1.5
            && following.metric("realmgate_consul_entries_refused") > 1.5
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_nobody_could_use_are_not_handed_out() {
    let net = TestNet::new();
    let script = well(&net).await;
    let tomorrow = SystemTime::now() + DAY;
    for (what, wrong) in [
        ("it has expired", leaf("d.consul", SystemTime::now() - Duration::from_secs(5))),
        ("it is for spiffe://e.consul/ns/default/dc/aws/svc/edge", leaf("e.consul", tomorrow)),
    ] {
        script.set(LEAF, Reply::Json(wrong));
        let following = follow(&script, &net);
        following.health(what, says(what)).await;
        assert!(failures(&following, "certificate") > 0.5);
        assert!(following.source.identities().borrow().leaves.is_empty());
        // The next that can be used is taken up by itself. This one holds from tomorrow on, by our clock.
        script.set(LEAF, Reply::Json(leaf("d.consul", tomorrow + 3 * DAY)));
        following.ok().await;
        let identities = following.source.identities();
        until(identities, "it is there", |all| all.leaves.contains_key("edge")).await;
    }
    assert!(script.asked(LEAF) < 50, "{} questions for a leaf", script.asked(LEAF));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leaf_waits_for_no_other() {
    const MANY: usize = 40;
    let net = TestNet::new();
    let script = well(&net).await;
    let tomorrow = SystemTime::now() + DAY;
    let names: Vec<_> = (0..=MANY).map(|n| format!("many{n:02}")).collect();
    let path = |name: &String| format!("{LEAVES}{name}");
    let asked = |names: &[String]| -> Vec<_> { names.iter().map(|name| script.asked(&path(name))).collect() };
    for name in &names {
        script.set(&path(name), Reply::Json(leaf_of(name, "d.consul", tomorrow)));
    }
    let (new, old) = names.split_last().unwrap();
    let wanted = |names: &[String]| Wanted { leaves: names.iter().cloned().collect(), ..lookups([]) };
    let following = Following::with(&script_config(&script, &net), wanted(old));
    following.ok().await;
    assert_eq!(asked(old), [1; MANY], "the first roots are no reason to ask again");

    // Now all ask for a successor, which comes when it comes.
    script.hold(LEAVES);
    script.set(ROOTS, Reply::Json(roots(tomorrow)));
    wait_until("as many wait as may", SOON, || asked(old).iter().sum::<usize>() >= MANY + 16);
    let watch = Stopwatch::start();
    following.wanted.send_replace(wanted(&names));
    until(following.source.identities(), "it is there", |all| all.leaves.contains_key(new)).await;
    assert!(watch.undisturbed() < Duration::from_secs(5), "{:?}", watch.elapsed());
    assert_eq!(asked(old).iter().sum::<usize>(), MANY + 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_is_replaced_before_its_end() {
    let net = TestNet::new();
    let script = well(&net).await;
    // By its dates it is due, but no leaf is asked for again within 10 s.
    let end = SystemTime::now() + Duration::from_secs(16);
    script.set(LEAF, Reply::Json(leaf("d.consul", end)));
    let following = follow(&script, &net);
    following.ok().await;
    let first = following.source.identities().borrow().leaves["edge"].clone();
    script.set(LEAF, Reply::Json(leaf("d.consul", SystemTime::now() + DAY)));
    until(following.source.identities(), "it is replaced", |all| all.leaves["edge"] != first).await;
    assert!(SystemTime::now() < end, "it has ended before");
    wait_until("it is counted", SOON, || following.metric("realmgate_consul_leaf_renewals_total") > 1.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_proves_who_it_is() {
    let net = TestNet::new();
    let authority = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let path = net.dir().join(name);
        fs::write(&path, params.self_signed(&key).unwrap().pem()).unwrap();
        (path, Issuer::new(params, key))
    };
    let ((good, issuer), (bad, _)) = (authority("ca.pem"), authority("other-ca.pem"));
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress(net.ip())];
    let [cert_file, key_file] = ["consul.pem", "consul-key.pem"].map(|name| net.dir().join(name));
    fs::write(&cert_file, params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    let settings = json!({"ports": {"https": 8501}, "cert_file": cert_file, "key_file": key_file});
    let consul =
        Consul::start(net.dir(), Config { ip: Some(net.ip()), settings, ..Config::new("aws") }).unwrap();

    let ca_file = net.dir().join("followed-ca.pem");
    fs::copy(&bad, &ca_file).unwrap();
    let config = ConsulConfig {
        address: format!("https://{}", net.at(8501)),
        ca_file: Some(ca_file.clone()),
        ..config(&consul, &net.dir().join("data"))
    };
    let following = Following::with(&config, lookups([lookup("aws", "consul")]));
    wait_until("it is not believed", SOON, || failures(&following, "tls") > 0.5);
    assert_eq!(*following.source.health().borrow(), Health::Starting);
    // The file is replaced, and read again.
    fs::copy(&good, &ca_file).unwrap();
    following.ok().await;
    // Whoever starts with the wrong one serves what an earlier run left.
    let saved = net.dir().join("data/consul.json");
    wait_until("it is saved", SOON, || fs::read_to_string(&saved).is_ok_and(|text| text.contains("8300")));
    drop(following);
    let config = ConsulConfig { ca_file: Some(bad), ..config };
    let following = Following::with(&config, lookups([lookup("aws", "consul")]));
    following.health("it says why", says("no TLS with Consul")).await;
    assert_eq!(following.source.catalog().borrow().instances.len(), 1);
}
