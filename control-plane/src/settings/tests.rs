//! Where settings come from, which of them wins, and what is refused.

use std::ffi::OsString;

use super::table::find;
use super::*;

/// Settings from a file's text, variables and flags.
fn settings(file: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
    let file = ConfigFile { name: "realmgate.yaml".to_owned(), text: file.to_owned() };
    let env = env.iter().map(|(n, v)| (OsString::from(n), OsString::from(v))).collect();
    let flags = flags.iter().map(|(path, text)| (find(path).unwrap(), (*text).to_owned())).collect();
    let sources = Sources { file: Some(file), env, flags };
    sources.settings().map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

/// The only problem of a file.
fn refusal(file: &str) -> String {
    let problems = settings(file, &[], &[]).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems[0].clone()
}

#[test]
fn nothing_said_means_the_defaults() {
    assert_eq!(settings("", &[], &[]).unwrap(), Settings::default());
    assert_eq!(settings("xds:\n#  listen: x\n", &[], &[]).unwrap(), Settings::default());
    assert_eq!(settings("{}", &[("PATH", "x")], &[]).unwrap(), Settings::default());
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file() {
    let file = "xds: {listen: '127.0.0.1:1'}\nlog: {level: warn}\nredis: {key_prefix: file}";
    let env = [("REALMGATE_XDS_LISTEN", "127.0.0.1:2"), ("REALMGATE_LOG_LEVEL", "error")];
    let got = settings(file, &env, &[("xds.listen", "127.0.0.1:3")]).unwrap();
    assert_eq!(got.xds.listen.port(), 3);
    assert_eq!(got.log.level, "error");
    assert_eq!(got.redis.key_prefix, "file");
    assert_eq!(got.api, Api::default());
}

#[test]
fn text_from_the_environment_gets_the_types_of_the_settings() {
    let env = [
        ("REALMGATE_GAME_GATEWAY_ENABLED", "true"),
        ("REALMGATE_GAME_GATEWAY_FRAMING", "server-traced"),
        ("REALMGATE_GAME_GATEWAY_REFRESH_INTERVAL", "250ms"),
        ("REALMGATE_GAME_GATEWAY_LIMITS_MAX_MESSAGE_BYTES", "4096"),
        ("REALMGATE_REDIS_KEY_PREFIX", "123"),
        ("REALMGATE_EDGE_HEALTH_LISTEN", ""),
        ("REALMGATE_POLICY_FILE", "policy.yaml"),
        ("REALMGATE_LOG_FORMAT", "json"),
    ];
    let got = settings("", &env, &[]).unwrap();
    assert!(got.game_gateway.enabled);
    assert_eq!(got.game_gateway.framing, Framing::ServerTraced);
    assert_eq!(got.game_gateway.refresh_interval, Duration::from_millis(250));
    assert_eq!(got.game_gateway.limits.max_message_bytes, 4096);
    assert_eq!(got.redis.key_prefix, "123");
    assert_eq!(got.edge.health_listen, None);
    assert_eq!(got.policy.file, Some(PathBuf::from("policy.yaml")));
    assert_eq!(got.log.format, LogFormat::Json);
}

#[test]
fn every_problem_is_reported_with_its_place() {
    let file = "xds:\n  listen: localhost\napi:\n  lisen: 127.0.0.1:1\nredis: 5\nlog: {level: inof}\n";
    let env = [("REALMGATE_XDS_LSTEN", "x"), ("REALMGATE_GAME_GATEWAY_ENABLED", "yes")];
    let problems = settings(file, &env, &[("policy.store", "redis")]).unwrap_err();
    let expected = [
        "realmgate.yaml:4:3: api.lisen: no such setting; known here: hosts, insecure, listen, max_connections",
        "realmgate.yaml:5:8: redis: not a value but a section of: key_prefix, tls, url",
        "environment variable REALMGATE_XDS_LSTEN: no such setting; docs/settings.md has the list",
        "environment variable REALMGATE_GAME_GATEWAY_ENABLED: game_gateway.enabled: `yes` is not true or false",
        "--policy-store: policy.store: `redis` is not available in this version; write `embedded` or `consul`",
        "realmgate.yaml:2:11: xds.listen: `localhost` is not IP-address:port, such as 127.0.0.1:18000",
        "realmgate.yaml:6:14: log.level: `inof` is no level; write error, warn, info, debug or trace, or module=level",
    ];
    for line in expected {
        assert!(problems.iter().any(|p| p == line), "missing: {line}\n{problems:#?}");
    }
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
}

#[test]
fn values_that_do_not_fit_are_refused() {
    for (file, expected) in [
        ("redis: {url: 'redis://:s3cret@'}", "realmgate.yaml:1:14: redis.url: not a Redis URL"),
        ("log: {format: xml}", "log.format: unknown variant `xml`"),
        ("game_gateway: {framing: grpc}", "game_gateway.framing: unknown variant `grpc`"),
        ("filter: {delivery: ftp}", "filter.delivery: unknown variant `ftp`"),
        ("filter: {advertise: nowhere}", "filter.advertise: `nowhere` is not host:port"),
        ("edge: {health_listen: 9090}", "edge.health_listen: "),
        ("edge: {health_listen: all}", "edge.health_listen: `all`"),
        (
            "game_gateway: {refresh_interval: 10}",
            "game_gateway.refresh_interval: `10` is not a length of time",
        ),
        ("game_gateway: {refresh_interval: 0s}", "game_gateway.refresh_interval: it must be longer than 0"),
        ("game_gateway: {limits: {max_message_bytes: -1}}", "game_gateway.limits.max_message_bytes: "),
        ("data_dir: ''", "data_dir: it is empty"),
        ("data_dir:", "data_dir: it has no value"),
        ("data_dir: [a]", "data_dir: it takes a single value, such as `./realmgate-data`"),
        ("log: {level: 'info,x=y=z'}", "log.level: "),
        ("consul: {token_file: t}", "consul.token_file: it needs `consul.address`"),
        ("consul: {address: '127.0.0.1:8500'}", "consul.address: it is not of the form"),
        ("consul: {address: 'http://user:s3cret@consul:8500'}", "consul.address: it is not of the form"),
        ("consul: {address: 'https://consul:8501'}", "consul.ca_file: `consul.address` is https"),
        ("redis: {url: 'rediss://cache'}", "redis.tls.ca_file: `redis.url` is rediss: name the file"),
        (
            "redis: {tls: {ca_file: ca}}",
            "redis.tls.ca_file: it needs a `redis.url` that begins with rediss://",
        ),
        (
            "redis: {url: 'rediss://cache', tls: {ca_file: ca, cert_file: c}}",
            "redis.tls.cert_file: it needs `redis.tls.key_file` beside it",
        ),
        ("edge: {address_key_lifetime: 59s}", "edge.address_key_lifetime: it is shorter than 1m"),
        ("policy: {store: etcd}", "policy.store: `etcd` is no policy store"),
        ("policy: {store: consul}", "policy.store: `consul` needs `consul.address` beside it"),
        ("policy: {consul_prefix: realmgate}", "policy.consul_prefix: `realmgate` is not like `realmgate/`"),
        ("policy: {consul_prefix: '/a/'}", "policy.consul_prefix: `/a/` is not like `realmgate/`"),
        ("policy: {consul_prefix: 'a?b/'}", "policy.consul_prefix: `a?b/` is not like `realmgate/`"),
        ("5", "realmgate.yaml:1:1: not a value but a section of: api, consul,"),
        ("5: 6", "realmgate.yaml:1:1: a key that is no text"),
        ("a: [", "not YAML: "),
        ("data_dir: a\ndata_dir: b", "realmgate.yaml:2:1: not YAML: duplicated key"),
        ("data_dir: a\n---\ndata_dir: b", "a second YAML document"),
    ] {
        let message = refusal(file);
        assert!(message.contains(expected), "{file}: {message}");
        assert!(!message.contains("s3cret"), "{message}");
    }
}

#[test]
fn a_listener_open_to_all_has_to_be_wanted() {
    for section in ["xds", "api"] {
        let message = refusal(&format!("{section}: {{listen: '0.0.0.0:19000'}}"));
        assert!(message.contains("is not on loopback"), "{message}");
        assert!(message.contains(&format!("`{section}.insecure: true`")), "{message}");
        let wanted = format!("{section}: {{listen: '0.0.0.0:19000', insecure: true}}");
        assert!(settings(&wanted, &[], &[]).is_ok());
    }
    assert!(settings("xds: {listen: '[::1]:19000'}", &[], &[]).is_ok());
}

#[test]
fn a_listener_open_to_all_may_authenticate_instead() {
    const PAIR: &str = "cert_file: c, key_file: k";
    let open = |more: &str| format!("xds: {{listen: '0.0.0.0:19000', {more}}}");
    for good in [
        format!("tls: {{{PAIR}, client_ca_file: a, trust_domains: d}}"),
        format!("tls: {{{PAIR}}}, token_file: t"),
        format!("tls: {{{PAIR}, client_ca_file: a, trust_domains: 'd.consul, e'}}, token_file: t"),
        "token_file: t, insecure: true".to_owned(),
        format!("tls: {{{PAIR}}}, insecure: true"),
    ] {
        assert_eq!(settings(&open(&good), &[], &[]).map(drop), Ok(()), "{good}");
    }
    let encrypted = refusal(&open(&format!("tls: {{{PAIR}}}")));
    assert!(encrypted.contains("nobody who reaches it would have to authenticate"), "{encrypted}");
    assert!(encrypted.contains("`xds.tls.client_ca_file` or `xds.token_file`"), "{encrypted}");
    let clear = refusal(&open("token_file: t"));
    assert!(clear.contains("tokens would cross the network in the clear"), "{clear}");
}

#[test]
fn settings_of_the_xds_listener_fit_together() {
    for (file, expected) in [
        ("xds: {tls: {cert_file: c}}", "xds.tls.cert_file: it needs `xds.tls.key_file`"),
        ("xds: {tls: {key_file: k}}", "xds.tls.key_file: it needs `xds.tls.cert_file`"),
        ("xds: {tls: {client_ca_file: a}}", "xds.tls.client_ca_file: it needs `xds.tls.cert_file`"),
        (
            "xds: {tls: {cert_file: c, key_file: k, client_ca_file: a}}",
            "xds.tls.trust_domains: it is empty, and `mesh.ca: none` says no trust domain",
        ),
        ("xds: {tls: {trust_domains: 'a, B'}}", "xds.tls.trust_domains: `B` is no trust domain"),
        ("xds: {tls: {rules_file: r}}", "xds.tls.rules_file: it needs `xds.tls.client_ca_file`"),
        ("edge: {service: ''}", "edge.service: `` cannot stand in a SPIFFE id"),
        ("mesh: {trust_domain: A/b}", "mesh.trust_domain: `A/b` cannot stand in a SPIFFE id"),
        ("mesh: {leaf_lifetime: 1s}", "mesh.leaf_lifetime: it is shorter than 2s"),
        ("mesh: {root_lifetime: 72h}", "mesh.root_lifetime: it is shorter than twice `mesh.leaf_lifetime`"),
        (
            "{mesh: {ca: embedded}, xds: {listen: '0.0.0.0:1', insecure: true}}",
            "mesh.ca: proxies get private keys",
        ),
        ("xds: {debounce: 11s}", "xds.debounce: it is longer than 10s"),
        ("xds: {max_connections: 0}", "xds.max_connections: it must be more than 0"),
    ] {
        let message = refusal(file);
        assert!(message.contains(expected), "{file}: {message}");
    }
    let meshed =
        "{mesh: {ca: embedded}, xds: {tls: {cert_file: c, key_file: k, client_ca_file: a, rules_file: r}}}";
    assert_eq!(settings(meshed, &[], &[]).map(drop), Ok(()));
    let got = settings("xds: {drain: 10s, max_connections: 50, token_file: t}", &[], &[]).unwrap().xds;
    assert_eq!((got.drain, got.max_connections), (Duration::from_secs(10), 50));
    assert_eq!(got.token_file, Some(PathBuf::from("t")));
}

#[test]
fn listeners_do_not_share_a_port() {
    assert!(refusal("api: {listen: '127.0.0.1:18000'}").contains("taken by `xds.listen`"));
    assert!(settings("xds: {listen: '127.0.0.1:0'}\napi: {listen: '127.0.0.1:0'}", &[], &[]).is_ok());
    assert!(settings("game_gateway: {listen: '0.0.0.0:9090'}", &[], &[]).is_ok());
    let both = "game_gateway: {listen: '0.0.0.0:9090', enabled: true}";
    assert!(refusal(both).contains("edge.health_listen: `0.0.0.0:9090` is taken by `game_gateway.listen`"));
}

#[test]
fn the_filter_served_over_http_is_there_and_can_be_reached() {
    assert!(refusal("filter: {path: /nowhere.wasm, delivery: http}").contains("there is no such file"));
    assert!(settings("filter: {path: /nowhere.wasm}", &[], &[]).is_ok());
    let all_places = refusal("filter: {delivery: http}");
    assert!(all_places.contains("wasm32-unknown-unknown/release/realmgate_filter.wasm"), "{all_places}");
    assert!(all_places.contains("/usr/lib/realmgate/realmgate_filter.wasm"), "{all_places}");
    let relative = settings("filter: {path: nowhere.wasm}", &[], &[]).unwrap().filter.path;
    assert!(relative.is_absolute() && relative.ends_with("nowhere.wasm"));
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let open =
        format!("filter: {{path: '{here}', delivery: http}}\napi: {{listen: '0.0.0.0:1', insecure: true}}");
    assert!(refusal(&open).contains("filter.advertise: set it to the host:port"));
    assert!(settings(&open, &[("REALMGATE_FILTER_ADVERTISE", "realmgate:1")], &[]).is_ok());
}

#[test]
fn variables_of_tools_and_service_links_are_no_settings() {
    let env = ["REALMGATE_API", "REALMGATE_BIN", "REALMGATE_FILTER_WASM", "REALMGATE_XDS_SERVICE_HOST"];
    assert!(settings("", &env.map(|name| (name, "x")), &[]).is_ok());
}
