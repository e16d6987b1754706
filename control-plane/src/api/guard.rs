//! What is refused before anything looks at a request, so that no web page in somebody's browser can use the API: names that
//! are not its own (DNS rebinding), pages of other origins, and gRPC in a form that browsers can send. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::http::header::{CONTENT_TYPE, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version};

use super::error::ApiError;
use super::grpc;

/// Answered under any name: probes come by the address of a pod, scrapes by the name of a service, and both only read.
const PROBES: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// What browsers say of the page that a request is of.
const SITE: &str = "sec-fetch-site";

/// The names that the API answers to.
#[derive(Clone, Debug)]
pub struct Hosts {
    listen: IpAddr,
    /// Lower case.
    names: Vec<String>,
    /// Pages that may use it although they come from elsewhere, as browsers write them: `https://console.example.com`.
    origins: Vec<String>,
}

impl Hosts {
    /// `listen`: where it listens; `more`: what else it is called, and origins of pages that may use it.
    #[must_use]
    pub fn new(listen: IpAddr, more: impl IntoIterator<Item = String>) -> Self {
        let more = more.into_iter().map(|entry| entry.to_ascii_lowercase());
        let (origins, names) = more.partition(|entry| entry.contains("://"));
        Self { listen, names, origins }
    }

    /// A page cannot be found under an address that is not its server's, so an address is good wherever others may connect to
    /// it. On loopback only those that lead here are.
    fn knows(&self, authority: &Authority) -> bool {
        let host = authority.host().to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        let address = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(host) => host.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        };
        if let Some(address) = address {
            let address = address.to_canonical();
            let is_named = || self.names.iter().any(|name| name.parse() == Ok(address));
            return address.is_loopback()
                || address == self.listen
                || !self.listen.is_loopback()
                || is_named();
        }
        host == "localhost" || self.names.iter().any(|name| name == host)
    }

    fn knows_origin(&self, origin: &str) -> bool {
        self.origins.iter().any(|known| known.eq_ignore_ascii_case(origin))
    }
}

/// Lets a request in, or says why not.
pub(super) fn check(hosts: &Hosts, parts: &Parts) -> Result<(), ApiError> {
    let Parts { method, uri, version, headers, .. } = parts;
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    let is_of_page = headers.contains_key(ORIGIN) || headers.contains_key(SITE);
    if is_read && PROBES.contains(&uri.path()) && !is_of_page {
        return Ok(());
    }
    let authorities = authorities(uri.authority(), headers)?;
    if let Some(foreign) = authorities.iter().find(|authority| !hosts.knows(authority)) {
        return Err(wrong_host(foreign));
    }
    let mut listed = false;
    for origin in headers.get_all(ORIGIN) {
        let text = origin.to_str().unwrap_or("?");
        listed = hosts.knows_origin(text);
        if !listed && !is_same(text, &authorities) {
            return Err(foreign_origin(text));
        }
    }
    // Browsers that leave `Origin` out still say this.
    let mut sites = headers.get_all(SITE).iter().map(HeaderValue::as_bytes);
    if !is_read && !listed && sites.any(|site| !matches!(site, b"same-origin" | b"none")) {
        return Err(foreign_origin("another site"));
    }
    if is_grpc(uri.path()) { check_grpc(method, *version, headers) } else { Ok(()) }
}

fn is_grpc(path: &str) -> bool {
    path.strip_prefix('/')
        .and_then(|path| path.strip_prefix(grpc::NAME))
        .is_some_and(|rest| rest.starts_with('/'))
}

/// Pages can send `text/plain` and the like anywhere without asking; nothing but gRPC's own form is gRPC.
fn check_grpc(method: &Method, version: Version, headers: &HeaderMap) -> Result<(), ApiError> {
    let mut kinds = headers.get_all(CONTENT_TYPE).iter();
    let kind = kinds.next().and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let form = kind.trim().to_ascii_lowercase();
    let rest = form.strip_prefix("application/grpc");
    let is_grpc = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';', ' ']));
    if method != Method::POST {
        return Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "bad_request", "gRPC is called by POST"));
    }
    if !is_grpc || kinds.next().is_some() || version != Version::HTTP_2 {
        let why = format!("gRPC is `application/grpc` over HTTP/2, not `{kind}` over {version:?}");
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "bad_request", why));
    }
    Ok(())
}

/// Every name that a request gives its server.
fn authorities(uri: Option<&Authority>, headers: &HeaderMap) -> Result<Vec<Authority>, ApiError> {
    let given = headers.get_all(HOST).iter().map(|host| Authority::try_from(host.as_bytes()));
    let bad = || ApiError::bad_request("the `Host` header is not a host, or a host and a port");
    let mut authorities: Vec<Authority> = given.collect::<Result<_, _>>().map_err(|_| bad())?;
    authorities.extend(uri.cloned());
    if !authorities.iter().all(is_plain) {
        return Err(bad());
    }
    if authorities.is_empty() {
        return Err(ApiError::bad_request("there is no `Host` header"));
    }
    Ok(authorities)
}

/// Whether it is a host, or a host and a port, and nothing before, between or behind.
fn is_plain(authority: &Authority) -> bool {
    let Some(behind) = authority.as_str().strip_prefix(authority.host()) else { return false };
    behind.is_empty() || behind.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
}

fn is_same(origin: &str, authorities: &[Authority]) -> bool {
    let of_page = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    of_page.is_some_and(|page| authorities.iter().all(|ours| ours.as_str().eq_ignore_ascii_case(page)))
}

fn wrong_host(authority: &Authority) -> ApiError {
    let host = authority.host();
    let message = format!(
        "this API is not called `{host}`: use its address or, if `{host}` leads here, add it to the setting `api.hosts`"
    );
    ApiError::new(StatusCode::MISDIRECTED_REQUEST, "wrong_host", message)
}

fn foreign_origin(origin: &str) -> ApiError {
    let message = format!(
        "pages of other origins ({}) may not use this API; one that may is listed in the setting `api.hosts`, as \
         https://console.example.com",
        origin.escape_debug()
    );
    ApiError::new(StatusCode::FORBIDDEN, "foreign_origin", message)
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use axum::response::IntoResponse;
    use proptest::prelude::*;

    use super::*;

    const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

    fn hosts(listen: impl Into<IpAddr>, more: &[&str]) -> Hosts {
        Hosts::new(listen.into(), more.iter().map(ToString::to_string))
    }

    /// The status of the refusal; 0 = let in.
    fn asked(hosts: &Hosts, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
        let request = Request::builder().method(method).uri(path);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let (parts, ()) = request.body(()).unwrap().into_parts();
        check(hosts, &parts).err().map_or(0, |refusal| refusal.into_response().status().as_u16())
    }

    fn under(hosts: &Hosts, host: &str) -> u16 {
        asked(hosts, "PUT", "/v1/policy", &[("host", host)])
    }

    #[test]
    fn it_answers_to_its_own_names_alone() {
        let here = hosts(LOOPBACK, &["Realmgate.internal", "10.0.0.9"]);
        for host in [
            "localhost:18080",
            "LOCALHOST",
            "localhost.",
            "127.0.0.1:18080",
            "127.9.9.9",
            "[::1]:1",
            "[::ffff:127.0.0.1]",
            "realmgate.internal:80",
            "10.0.0.9",
        ] {
            assert_eq!(under(&here, host), 0, "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "realmgate",
            "10.0.0.1",
            "169.254.169.254",
            "0.0.0.0",
        ] {
            assert_eq!(under(&here, host), 421, "{host}");
        }
        for host in ["a b", "[::1].evil.example", "evil@localhost", "localhost:1:2"] {
            assert_eq!(under(&here, host), 400, "{host}");
        }
        assert_eq!(under(&here, "[127.0.0.1]"), 421);
        assert_eq!(asked(&here, "GET", "/v1/policy", &[]), 400);
        let reads = |headers| asked(&here, "GET", "/v1/filter/x.wasm", headers);
        assert_eq!(reads(&[("host", "evil.example")]), 421);
        assert_eq!(reads(&[("host", "localhost"), ("host", "evil.example")]), 421);
        assert_eq!(asked(&here, "GET", "http://evil.example/v1/policy", &[("host", "localhost")]), 421);
        assert_eq!(asked(&here, "GET", "http://localhost/v1/policy", &[("host", "evil.example")]), 421);
    }

    #[test]
    fn where_others_connect_any_address_is_good_and_names_are_those_that_are_set() {
        for listen in [[0, 0, 0, 0], [10, 1, 2, 3]] {
            let open = hosts(listen, &["realmgate.games"]);
            for host in ["10.1.2.3:18080", "192.0.2.1", "[2001:db8::1]:18080", "realmgate.games", "localhost"]
            {
                assert_eq!(under(&open, host), 0, "{host}");
            }
            assert_eq!(under(&open, "evil.example"), 421);
        }
    }

    #[test]
    fn probes_are_answered_under_any_name_and_only_read() {
        let here = hosts(LOOPBACK, &[]);
        for path in PROBES {
            assert_eq!(asked(&here, "GET", path, &[("host", "10.4.0.7:18080")]), 0, "{path}");
            assert_eq!(asked(&here, "GET", path, &[("host", "realmgate.monitoring.svc")]), 0, "{path}");
            assert_eq!(asked(&here, "GET", path, &[]), 0, "{path}");
            assert_eq!(asked(&here, "POST", path, &[("host", "evil.example")]), 421, "{path}");
        }
        assert_eq!(asked(&here, "GET", "/metrics/", &[("host", "evil.example")]), 421);
        let page = [("host", "evil.example"), ("origin", "http://evil.example")];
        assert_eq!(asked(&here, "GET", "/readyz", &page), 421);
        assert_eq!(
            asked(&here, "GET", "/readyz", &[("host", "evil.example"), ("sec-fetch-site", "none")]),
            421
        );
    }

    #[test]
    fn a_page_of_another_origin_is_refused_whatever_it_does() {
        let here = hosts(LOOPBACK, &["https://console.example.com"]);
        let from = |method, headers: &[(&str, &str)]| {
            let headers: Vec<_> = headers.iter().copied().chain([("host", "localhost:18080")]).collect();
            asked(&here, method, "/v1/policy", &headers)
        };
        assert_eq!(from("PUT", &[("origin", "http://localhost:18080")]), 0);
        assert_eq!(from("PUT", &[("origin", "https://console.example.com")]), 0);
        let listed = [("origin", "https://console.example.com"), ("sec-fetch-site", "cross-site")];
        assert_eq!(from("PUT", &listed), 0);
        for origin in [
            "http://localhost:3000",
            "http://localhost",
            "http://127.0.0.1:18080",
            "http://evil.example",
            "https://console.example.com.evil.example",
            "null",
            "",
            "localhost:18080",
        ] {
            for method in ["PUT", "GET", "POST", "DELETE", "OPTIONS"] {
                assert_eq!(from(method, &[("origin", origin)]), 403, "{method} from {origin}");
            }
        }
        for site in ["cross-site", "same-site", "?"] {
            assert_eq!(from("PUT", &[("sec-fetch-site", site)]), 403, "{site}");
            assert_eq!(from("GET", &[("sec-fetch-site", site)]), 0, "following a link to {site}");
        }
        assert_eq!(from("PUT", &[("sec-fetch-site", "none")]), 0);
        assert_eq!(from("PUT", &[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")]), 403);
    }

    #[test]
    fn grpc_is_taken_as_grpc_alone() {
        let here = hosts(LOOPBACK, &[]);
        let called = |method: &str, kind: Option<&str>, version| {
            let request = Request::builder().method(method).uri("/realmgate.v1.Management/PutPolicy");
            let request = request.version(version).header("host", "localhost");
            let request =
                kind.into_iter().fold(request, |request, kind| request.header("content-type", kind));
            let (parts, ()) = request.body(()).unwrap().into_parts();
            check(&here, &parts).err().map_or(0, |refusal| refusal.into_response().status().as_u16())
        };
        for kind in ["application/grpc", "application/grpc+proto", "Application/GRPC; x=1"] {
            assert_eq!(called("POST", Some(kind), Version::HTTP_2), 0, "{kind}");
            assert_eq!(called("POST", Some(kind), Version::HTTP_11), 415, "{kind}");
            assert_eq!(called("GET", Some(kind), Version::HTTP_2), 405, "{kind}");
        }
        for kind in [
            "text/plain",
            "application/grpc-web",
            "application/grpc-web-text+proto",
            "multipart/form-data",
            "",
        ] {
            assert_eq!(called("POST", Some(kind), Version::HTTP_2), 415, "{kind}");
        }
        assert_eq!(called("POST", None, Version::HTTP_2), 415);
    }

    proptest! {
        #[test]
        fn no_name_that_somebody_else_can_own_is_ours(name in "[a-z0-9]{1,9}(\\.[a-z0-9]{1,9}){1,3}", port in 0..9999_u16) {
            prop_assume!(name.parse::<IpAddr>().is_err());
            for listen in [LOOPBACK, [0; 4]] {
                prop_assert_eq!(under(&hosts(listen, &["realmgate"]), &format!("{name}:{port}")), 421);
            }
        }
    }
}
